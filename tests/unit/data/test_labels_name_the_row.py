import pytest

from hounsfield.data.labels import load_labels
from hounsfield.errors import LabelError


@pytest.fixture
def labels(tmp_path):
    def load(text, encoding="utf-8"):
        path = tmp_path / "labels.csv"
        path.write_bytes(text.encode(encoding))
        return load_labels(path)

    return load


def test_words_and_numbers_are_read(labels):
    table = labels("PatientID,label\nA,positive\nB,0\nC,Negative\nD,1\n")
    assert dict(table.by_key) == {"A": 1, "B": 0, "C": 0, "D": 1}
    assert table.find({"PatientID": "D", "SOPInstanceUID": "x"}) == 1
    assert table.find({"SOPInstanceUID": "A"}) is None


def test_a_spreadsheets_semicolons_mark_and_blank_lines_are_read(labels):
    assert dict(labels("\ufeffStudyInstanceUID;label\r\n1.2;1\r\n\r\n1.3;0\r\n").by_key) == {
        "1.2": 1,
        "1.3": 0,
    }


def test_the_most_specific_column_is_used(labels):
    table = labels("PatientID,SOPInstanceUID,label\nA,1.2,1\nA,1.3,0\n")
    assert table.key_column == "SOPInstanceUID"


def test_sites_may_be_named(labels):
    table = labels("PatientID,site,label\nA,north-2,1\nB,,0\nC,south,0\nA,north-2,1\n")
    assert dict(table.sites) == {"A": "north-2", "C": "south"}
    assert dict(labels("PatientID,label\nA,1\n").sites) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "PatientID,label\nA,1\nB,maybe\n",
            r"labels.csv row 3: label 'maybe' is not one of negative, positive",
        ),
        ("PatientID,label\nA,1\n,1\n", "labels.csv row 3: PatientID is empty"),
        ("PatientID,label\nA,1\nB\n", "labels.csv row 3: 1 columns"),
        (
            "PatientID,label\nA,1\nB,0\nA,0\n",
            "labels.csv rows 2 and 4: two different labels for one PatientID",
        ),
        ("PatientID,label,site\nA,1,St. Mary\n", "row 2: the site is not a code such as north-2"),
        ("PatientID,label,site\nA,1,a\nA,1,b\n", "row 3: a second site for one PatientID"),
        (
            "PatientID,label,site\n" + "".join(f"{n},1,s{n}\n" for n in range(51)),
            "51 sites, and results are told apart for at most 50",
        ),
        ("PatientID,label\n", "holds a header and no labels"),
        ("name,label\nA,1\n", "row 1: the header needs the column label and one of"),
        ("PatientID,diagnosis\nA,1\n", "row 1: the header needs the column label"),
        ("", "it has nothing"),
    ],
)
def test_what_is_wrong_is_named_by_its_row(labels, text, message):
    with pytest.raises(LabelError, match=message):
        labels(text)


def test_the_same_label_twice_is_no_mistake(labels):
    assert dict(labels("PatientID,label\nA,1\nA,positive\n").by_key) == {"A": 1}


def test_a_missing_or_foreign_file_is_refused(labels, tmp_path):
    with pytest.raises(LabelError, match=r"nothing.csv cannot be read: No such file"):
        load_labels(tmp_path / "nothing.csv")
    with pytest.raises(LabelError, match="not UTF-8"):
        labels("PatientID,label\nÄ,1\n", encoding="latin-1")


def test_a_label_of_an_unknown_patient_is_named_by_row_and_not_by_name(labels):
    table = labels("PatientID,label\nA,1\nSECRET,0\nC,0\nOTHER,1\n")
    table.check_all_used({"A", "C", "SECRET", "OTHER"})
    with pytest.raises(LabelError, match=r"row 3 \(and 1 more rows\)") as error:
        table.check_all_used({"A", "C"})
    assert "SECRET" not in str(error.value)
