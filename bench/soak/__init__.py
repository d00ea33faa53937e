"""An hour of a hospital's load with faults on the wire: nothing breaks, slows down, grows or is lost."""
