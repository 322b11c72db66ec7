"""The recorded workloads: they are what their publishers published, and what is broken is refused by name."""

from __future__ import annotations

import gzip
import json
from hashlib import blake2b, sha256

import pytest

from eventflow.demo import workload
from eventflow.demo.workload import Job, WorkloadError, expected_digest, parse
from tests.recorded import available, folder_of, load

PUBLISHED = {
    "1000genome-chameleon-10ch-250k-001": ("bbfd77dfc2da6553", 410, 530),
    "airrflow-dirt02-001": ("1a971400872670f2", 212, 327),
    "bitbake-mylayer": ("c9e8ebeef30e0dd1", 836, 1717),
    "helloworld-forkjoin-10-chameleon": ("7046b65845190ed9", 10, 16),
    "montage-chameleon-2mass-01d-001": ("0a1073feab3bedfa", 103, 231),
}
"""Name → start of the JSON's SHA-256, tasks, edges."""


TWINS = b"""{"workflow": {"specification": {"tasks": [
    {"id": "a", "name": "a", "parents": []}, {"id": "a", "name": "b", "parents": []}
]}}}"""


def document(parents: dict[str, list[str]]) -> bytes:
    """A WfFormat document with nothing in it but edges."""
    tasks = [{"id": id_, "name": id_, "parents": waits_for} for id_, waits_for in parents.items()]
    return json.dumps({"workflow": {"specification": {"tasks": tasks}}}).encode()


def test_every_file_is_known() -> None:
    """What lies in the folder is what the table of sources names."""
    assert available() == tuple(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_are_as_published(name: str) -> None:
    """Bytes, tasks and edges are those of the source."""
    start, tasks, edges = PUBLISHED[name]
    data = gzip.decompress((folder_of(name) / f"{name}{workload.SUFFIX}").read_bytes())
    loaded = load(name)
    assert sha256(data).hexdigest().startswith(start)
    assert (len(loaded.tasks), sum(len(job.parents) for job in loaded.tasks)) == (tasks, edges)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parents_come_first(name: str) -> None:
    """Tasks stand in topological order, each once."""
    seen: set[str] = set()
    for job in load(name).tasks:
        assert seen.issuperset(job.parents)
        assert job.id not in seen
        seen.add(job.id)


def test_a_job_carries_what_was_recorded() -> None:
    """Kind, parents, seconds and bytes of one Montage job are those in its document."""
    name = "montage-chameleon-2mass-01d-001"
    recorded = json.loads(gzip.decompress((folder_of(name) / f"{name}{workload.SUFFIX}").read_bytes()))[
        "workflow"
    ]
    asked = next(t for t in recorded["specification"]["tasks"] if t["id"] == "mDiffFit_ID0000008")
    runtime = next(t for t in recorded["execution"]["tasks"] if t["id"] == asked["id"])["runtimeInSeconds"]
    sizes = {file["id"]: file["sizeInBytes"] for file in recorded["specification"]["files"]}
    written = sum(sizes[file] for file in asked["outputFiles"])
    assert written > 0
    assert next(job for job in load(name).tasks if job.id == asked["id"]) == Job(
        "mDiffFit_ID0000008", "mDiffFit", tuple(asked["parents"]), runtime, written
    )


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("montage-chameleon-2mass-01d-001", 8),
        ("1000genome-chameleon-10ch-250k-001", 5),
        ("airrflow-dirt02-001", 36),
        ("helloworld-forkjoin-10-chameleon", 1),
    ],
)
def test_kinds_have_no_counters(name: str, kinds: int) -> None:
    """Recorders count their tasks in their names; a kind does not."""
    assert len({job.kind for job in load(name).tasks}) == kinds


def test_expected_digest_hashes_id_and_parents_in_order() -> None:
    """A diamond worked out by hand, with the parents of its last job the other way round."""
    diamond = parse("diamond", document({"d": ["c", "b"], "b": ["a"], "c": ["a"], "a": []}))
    a = blake2b(b"a").hexdigest()
    b = blake2b(b"b" + a.encode()).hexdigest()
    c = blake2b(b"c" + a.encode()).hexdigest()
    assert expected_digest(diamond) == {
        "a": a,
        "b": b,
        "c": c,
        "d": blake2b(b"d" + c.encode() + b.encode()).hexdigest(),
    }


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A wrong name says which names there are."""
    with pytest.raises(WorkloadError, match=r"no workload 'montage'.*airrflow-dirt02-001"):
        load("montage")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (document({"a": ["ghost"]}), "task 'a' waits for 'ghost'"),
        (document({"a": ["b"], "b": ["a"]}), "circle: (a → b → a|b → a → b)"),
        (document({"a": ["a"]}), "circle: a → a"),
        (b'{"workflow": {}}', "not WfFormat"),
        (b"{", "not WfFormat"),
        (TWINS, "two tasks of one id"),
    ],
    ids=["unknown-parent", "cycle", "self-loop", "no-specification", "no-json", "duplicate-id"],
)
def test_what_cannot_run_is_refused(data: bytes, message: str) -> None:
    """Each broken document gets an error that names what is wrong."""
    with pytest.raises(WorkloadError, match=f"workload 'broken'.*{message}"):
        parse("broken", data)
