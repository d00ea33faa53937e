"""From a folder of DICOM files and a labels file to an index, a quarantine, a split and a profile."""
