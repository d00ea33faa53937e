import pytest

from serving.predictor.flags import parse


def flags(*given, otlp_endpoint=None):
    return parse(["--model_dir=/models/1", *given], otlp_endpoint)


def test_the_defaults_follow_the_threads():
    arguments, others = flags("--threads=3")
    assert arguments.max_waiting == 48
    assert (arguments.cache_entries, arguments.log_dir, arguments.otlp_endpoint) == (0, None, None)
    assert (arguments.log_sync, arguments.log_format) == ("fsync", "json")
    assert others == []


def test_the_standard_variable_is_the_default_endpoint_and_a_flag_overrules_it():
    assert flags(otlp_endpoint="http://collector:4318")[0].otlp_endpoint == "http://collector:4318"
    both = flags("--otlp_endpoint=http://other:4318", otlp_endpoint="http://collector:4318")
    assert both[0].otlp_endpoint == "http://other:4318"


def test_sites_are_a_few_names():
    assert flags("--sites=north,south")[0].sites == ("north", "south")
    for wrong in ("--sites=", "--sites=a,,b", "--sites=" + ",".join("abc" for _ in range(51))):
        with pytest.raises(SystemExit):
            flags(wrong)


def test_arguments_of_kserve_are_handed_on():
    assert flags("--workers=1", "--enable_docs_url=true")[1] == ["--workers=1", "--enable_docs_url=true"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--threads=0"], "argument --threads: '0' is not a whole number from 1 up"),
        (["--max_waiting=many"], "'many' is not a whole number from 1 up"),
        (["--cache_entries=-1"], "'-1' is not a whole number from 0 up"),
        (["--http_port=70000"], "'70000' is not a port from 1 to 65535"),
        (["--http_port=8081"], "--http_port and --grpc_port are both 8081"),
        (["--log_sync=maybe"], "invalid choice: 'maybe'"),
        (["--retention_days=0"], "'0' is not a number of days above 0"),
        (["--shutdown_grace_s=nan"], "'nan' is not a number of seconds above 0"),
        (["--otlp_endpoint=collector:4318"], "'collector:4318' is not an address such as http://collector"),
        (["--sink_url=http://sink"], "--sink_url delivers the inference log: give its folder with --log_dir"),
    ],
)
def test_a_wrong_value_is_named_in_a_sentence(capsys, given, sentence):
    with pytest.raises(SystemExit) as ended:
        flags(*given)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
