"""What happens in a rollout is said once, however often it is looked at."""

from hounsfield.cli.rollout_lines import rollout_lines
from hounsfield.rollout.controller import Event


def test_the_same_verdict_again_is_not_said_again():
    written = []
    listen = rollout_lines(written.append)
    waiting = Event("verdict", 1.0, 50, "HOLD: a person has to approve going on from 50 %")
    listen(Event("weights_set", 0.0, 50, "canary at 50 %"))
    listen(waiting)
    listen(Event("approval_wanted", 1.0, 50, "a person has to approve going on from 50 %"))
    for _ in range(3):
        listen(waiting)
    listen(Event("verdict", 5.0, 50, "PROMOTE: every guardrail is proven to be within its margin"))
    listen(waiting)
    assert written == [
        " 50 %  canary at 50 %",
        " 50 %  HOLD: a person has to approve going on from 50 %",
        " 50 %  a person has to approve going on from 50 % (hounsfield rollout approve)",
        " 50 %  HOLD: a person has to approve going on from 50 %",
        " 50 %  PROMOTE: every guardrail is proven to be within its margin",
        " 50 %  HOLD: a person has to approve going on from 50 %",
    ]
