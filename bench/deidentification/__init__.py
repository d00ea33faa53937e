"""How much of the patient is left after de-identification: ours beside other tools."""
