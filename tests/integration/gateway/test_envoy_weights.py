"""Who answers: weights, names, studies and mirrors, through a real Envoy."""

import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import hashlib
import http.client
import time

import grpc
import pytest
import requests

from hounsfield.errors import PlatformError
from hounsfield.laptop import envoy
from hounsfield.laptop.plan import Ports

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def study(number: int) -> str:
    """A header's value, as the clients make it: 16 hex digits of a UID's SHA-256."""
    return hashlib.sha256(f"1.2.840.{number}".encode()).hexdigest()[:16]


def answered(ports: Ports, count: int, **headers: str) -> collections.Counter:
    with requests.Session() as session:
        return collections.Counter(
            session.get(
                f"http://127.0.0.1:{ports.gateway}/v2/models/opacity", headers=headers, timeout=5
            ).text.split()[0]
            for _ in range(count)
        )


def answered_by_grpc(ports: Ports, count: int, metadata=()) -> collections.Counter:
    with grpc.insecure_channel(f"127.0.0.1:{ports.gateway}") as channel:
        call = channel.unary_unary(METHOD)
        return collections.Counter(call(b"", timeout=5, metadata=metadata).decode() for _ in range(count))


def test_a_rename_moves_rest_and_grpc_from_90_10_to_50_50(gateway, ports):
    gateway.move(90, 10)
    before, before_grpc = answered(ports, 500), answered_by_grpc(ports, 500)
    gateway.move(50, 50)
    after, after_grpc = answered(ports, 500), answered_by_grpc(ports, 500)
    # Five standard deviations of a binomial count: 500 at 10 % is 50 +- 33, at 50 % 250 +- 56.
    assert 17 <= before["canary"] <= 83
    assert 17 <= before_grpc["canary"] <= 83
    assert 194 <= after["canary"] <= 306
    assert 194 <= after_grpc["canary"] <= 306


def test_weight_0_means_never_and_the_change_holds_from_the_first_request(gateway, ports):
    gateway.move(0, 100)
    assert answered(ports, 100) == {"canary": 100}
    gateway.move(100, 0)
    assert answered(ports, 100) == {"stable": 100}


def test_no_request_fails_while_the_weights_move(gateway, ports):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        counting = pool.submit(answered, ports, 800)
        for step in range(20):
            gateway.move(100 - 5 * step, 5 * step)
        assert sum(counting.result().values()) == 800


def test_the_header_names_a_revision_whatever_the_weights(gateway, ports):
    gateway.move(100, 0)
    assert answered(ports, 20, **{"x-hounsfield-revision": "canary"}) == {"canary": 20}
    assert answered_by_grpc(ports, 20, (("x-hounsfield-revision", "canary"),)) == {"canary": 20}
    gateway.move(0, 100)
    assert answered(ports, 20, **{"x-hounsfield-revision": "stable"}) == {"stable": 20}


def test_every_answer_says_which_revision_gave_it(gateway, ports):
    gateway.move(50, 50)
    for _ in range(20):
        answer = requests.get(f"http://127.0.0.1:{ports.gateway}/v2/models/opacity", timeout=5)
        assert answer.headers["x-hounsfield-revision"] == answer.text.split()[0]


def test_only_inference_is_reachable_from_outside(gateway, ports):
    for path in ("/metrics", "/", "/v2/../metrics", "/docs"):
        answer = requests.Request("GET", f"http://127.0.0.1:{ports.gateway}/").prepare()
        answer.url = f"http://127.0.0.1:{ports.gateway}{path}"
        with requests.Session() as session:
            assert session.send(answer, timeout=5).status_code == 404


def test_a_body_of_64_mib_passes(gateway, ports):
    body = bytes(64 << 20)
    answer = requests.post(f"http://127.0.0.1:{ports.gateway}/v2/models/opacity/infer", data=body, timeout=30)
    assert answer.text.split()[1] == str(64 << 20)


def test_a_mirror_gets_a_copy_of_every_request_and_answers_none(gateway, ports, upstreams):
    shadowed = copy.deepcopy(gateway.objects)
    virtual_service = next(item for item in shadowed if item["kind"] == "VirtualService")
    for route in virtual_service["spec"]["http"]:
        if route["name"] == "rest-by-weight":
            route["mirrorPercentage"] = {"value": 100}
    gateway.move(100, 0, shadowed)
    seen = upstreams["canary"].seen
    assert answered(ports, 50) == {"stable": 50}
    deadline_s = time.monotonic() + 5
    while upstreams["canary"].seen < seen + 50 and time.monotonic() < deadline_s:
        pass
    assert upstreams["canary"].seen == seen + 50
    copied = upstreams["canary"].headers_of_the_last
    assert (copied["host"], copied["x-hounsfield-shadow"]) == (f"127.0.0.1-shadow:{ports.gateway}", "1")


def with_first(objects: list, header: str, *names: str) -> list:
    """The objects of a tree in which those of `names` go first, as a rollout would have written it."""
    found = copy.deepcopy(objects)
    (service,) = [item for item in found if item["kind"] == "VirtualService"]
    for route in service["spec"]["http"]:
        if route["name"].endswith("-first"):
            route["match"][0]["headers"] = {header: {"regex": "|".join(names)}}
            route["route"][0]["weight"], route["route"][1]["weight"] = 0, 100
            if "mirrorPercentage" in route:
                route["mirrorPercentage"] = {"value": 100}
    return found


def test_a_site_that_goes_first_has_the_canary_and_the_others_do_not(gateway, ports, upstreams):
    gateway.move(100, 0, with_first(gateway.objects, "x-hounsfield-site", "north", "north-east"))
    copies = upstreams["stable"].seen
    for site in ("north", "north-east"):
        assert answered(ports, 20, **{"x-hounsfield-site": site}) == {"canary": 20}
    assert upstreams["canary"].headers_of_the_last["x-hounsfield-first"] == "1"
    assert answered_by_grpc(ports, 20, (("x-hounsfield-site", "north"),)) == {"canary": 20}
    deadline_s = time.monotonic() + 5
    while upstreams["stable"].seen < copies + 40 and time.monotonic() < deadline_s:
        pass
    assert upstreams["stable"].seen == copies + 40  # what stable would have answered is known too
    assert upstreams["stable"].headers_of_the_last["x-hounsfield-shadow"] == "1"
    for site in ("south", "north-west", "nort", ""):
        assert answered(ports, 20, **{"x-hounsfield-site": site}) == {"stable": 20}
    assert answered(ports, 20) == {"stable": 20}


def test_the_studies_of_a_site_stay_with_the_canary_while_the_weights_rise_and_all_go_back_together(
    gateway, ports
):
    first = with_first(gateway.objects, "x-hounsfield-site", "north")
    token = next(study(n) for n in range(100) if answered_at(gateway, ports, first, 5, study(n)) == "stable")
    for percent in (5, 50, 100):
        gateway.move(100 - percent, percent, first)
        ours = {"x-hounsfield-site": "north", "x-hounsfield-study": token}
        assert answered(ports, 10, **ours) == {"canary": 10}
    gateway.move(100, 0)
    assert answered(ports, 10, **ours) == {"stable": 10}


def answered_at(gateway, ports: Ports, objects: list, percent: int, token: str) -> str:
    """Which revision has the study when no site is named."""
    gateway.move(100 - percent, percent, objects)
    (role,) = answered(ports, 3, **{"x-hounsfield-study": token})
    return role


def test_nobody_outside_can_pass_for_a_first_caller(gateway, ports, upstreams):
    gateway.move(0, 100)
    assert answered(ports, 1, **{"x-hounsfield-first": "1"}) == {"canary": 1}
    assert "x-hounsfield-first" not in upstreams["canary"].headers_of_the_last


def test_nobody_outside_can_pass_for_a_mirrored_request(gateway, ports, upstreams):
    gateway.move(100, 0)
    url = f"http://127.0.0.1:{ports.gateway}/v2/models/opacity"
    for host in ("127.0.0.1-shadow", "opacity-shadow:8080"):
        assert requests.get(url, headers={"Host": host}, timeout=5).status_code == 400
    assert requests.get(url, headers={"x-hounsfield-shadow": "1"}, timeout=5).status_code == 200
    assert "x-hounsfield-shadow" not in upstreams["stable"].headers_of_the_last


def test_routes_that_envoy_refuses_are_an_error_and_the_old_ones_stay(gateway, ports):
    gateway.move(100, 0)
    plan = gateway.plan(100, 0)
    broken = dataclasses.replace(plan, virtual_hosts=({"name": "x", "domains": [], "routes": []},))
    with pytest.raises(PlatformError, match="did not take the new routes"):
        envoy.wait_for_routes(ports, envoy.write_routes(gateway.folder, broken), timeout_s=0.5)
    assert answered(ports, 20) == {"stable": 20}


STUDIES = 2000


def revisions_of_studies(ports: Ports, repeats: int) -> list[set[str]]:
    """For each study, the revisions that answered its requests."""
    found = [set() for _ in range(STUDIES)]
    connection = http.client.HTTPConnection("127.0.0.1", ports.gateway, timeout=5)  # 18,000 requests, quickly
    with contextlib.closing(connection):
        for number in [*range(STUDIES)] * repeats:
            connection.request("GET", "/v2/models/opacity", headers={"x-hounsfield-study": study(number)})
            found[number].add(connection.getresponse().read().decode().split()[0])
    return found


def test_no_study_is_split_and_a_higher_weight_only_moves_studies_to_the_canary(gateway, ports):
    before = set()
    for percent in (5, 25, 50):
        gateway.move(100 - percent, percent)
        found = revisions_of_studies(ports, repeats=3)
        assert max(map(len, found)) == 1  # all three requests of each study went to one revision
        on_canary = {number for number, seen in enumerate(found) if seen == {"canary"}}
        mean, deviation = STUDIES * percent / 100, (STUDIES * percent * (100 - percent)) ** 0.5 / 100
        assert abs(len(on_canary) - mean) <= 5 * deviation  # 100 +- 49, 500 +- 97, 1000 +- 112
        assert before <= on_canary
        before = on_canary


def test_a_study_has_one_revision_through_every_door(gateway, ports):
    gateway.move(50, 50)
    url = f"http://127.0.0.1:{ports.gateway}/v1/models/opacity:explain"
    seen = collections.Counter()
    with grpc.insecure_channel(f"127.0.0.1:{ports.gateway}") as channel, requests.Session() as session:
        call = channel.unary_unary(METHOD)
        for number in range(300):
            header = ("x-hounsfield-study", study(number))
            (by_rest,) = answered(ports, 1, **dict([header]))
            by_explainer = session.post(url, headers=dict([header]), timeout=5).text.split()[0]
            by_grpc = {call(b"", timeout=5, metadata=(header,)).decode() for _ in range(2)}
            assert by_grpc == {by_rest} == {by_explainer}
            seen[by_rest] += 1
    assert 107 <= seen["canary"] <= 193  # 150 +- 43, five standard deviations: the hash does share them out


def test_requests_without_a_study_are_shared_at_random(gateway, ports):
    gateway.move(75, 25)
    answers = answered(ports, 1000)
    assert 182 <= answers["canary"] <= 318  # 250 +- 68
    assert 182 <= answered_by_grpc(ports, 1000)["canary"] <= 318


def test_a_revision_asked_for_by_name_wins_over_the_study(gateway, ports):
    gateway.move(0, 100)
    headers = {"x-hounsfield-study": study(1), "x-hounsfield-revision": "stable"}
    assert answered(ports, 20, **headers) == {"stable": 20}
