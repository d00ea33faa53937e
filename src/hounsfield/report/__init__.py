"""Pictures and pages: the report of a run, and the page that each pipeline step shows in the dashboard."""
