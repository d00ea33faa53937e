"""Reading DICOM safely, refusing it with a reason, and taking the patient out of it."""
