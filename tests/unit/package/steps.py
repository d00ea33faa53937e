"""What the steps before `package` say, as far as the model card asks."""


def _interval(value):
    return {"value": value, "low": value - 0.03, "high": value + 0.03}


METRICS = {
    "auroc": {"value": 0.912, "low": 0.88, "high": 0.94},
    "auprc": _interval(0.9),
    "sensitivity": _interval(0.86),
    "specificity": _interval(0.7),
    "ppv": {"value": None, "low": None, "high": None},
    "npv": _interval(0.9),
    "net_benefit": _interval(0.1),
    "ece": _interval(0.04),
    "brier": _interval(0.1),
    "ece_uncalibrated": _interval(0.06),
    "brier_uncalibrated": _interval(0.11),
    "operating_point": {
        "threshold": 0.41,
        "chosen_on": "validation",
        "rule": "highest specificity with a sensitivity of at least 0.85 on validation",
    },
    "temperature": 1.5,
    "review_band": [0.3, 0.5],
    "counts": {"train": 650, "validation": 220, "test": 230, "test_positive": 96},
    "confidence": 0.95,
    "bootstrap": {"unit": "patient", "resamples": 1000},
    "baseline": {
        "auroc": {"value": 0.7, "low": 0.6, "high": 0.8},
        "difference": {"value": 0.212, "low": 0.15, "high": 0.28},
        "method": "logistic regression on pixel statistics",
        "rule": "the whole interval of the difference in AUROC is above 0",
        "beaten": True,
    },
    "subgroups": [
        {
            "attribute": "patient_sex",
            "value": "F",
            "n": 9,
            "n_positive": 0,
            "auroc": None,
            "sensitivity": None,
            "specificity": {"value": 0.5, "low": 0.2, "high": 0.8},
            "gap": None,
            "note": "too | few",
        }
    ],
    "subgroup_gaps": [],
}
DATASET = {
    "sample": True,
    "counts": {"accepted": 1100, "patients": 531, "positives": 452, "quarantined": 11},
    "labelled_by": "SOPInstanceUID",
    "fingerprint": "def456",
}
