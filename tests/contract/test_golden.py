"""The bytes of every document are kept: what was written once is read, and written the same, for ever."""

import json
from pathlib import Path

import msgspec
import pytest

from pps_wire import release, report, request
from pps_wire.errors import WireError
from pps_wire.report import Lane
from tests.contract.samples import AGENT, BATCH, EPOCH, KEY, KEY_ID, RECORDS, SAMPLES, Sample

GOLDEN = Path(__file__).parent / "golden"
VERSIONED = [sample for sample in SAMPLES if sample.version is not None]


def each(samples):
    return pytest.mark.parametrize("sample", samples, ids=lambda sample: sample.file)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def edited(sample: Sample, **fields: object) -> bytes:
    """The golden document with other fields in its first object (a manifest's head)."""
    head, newline, rest = (GOLDEN / sample.file).read_bytes().partition(b"\n")
    return compact(json.loads(head) | fields) + newline + rest


def test_every_golden_file_has_its_sample():
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(sample.file for sample in SAMPLES)


@each(SAMPLES)
def test_golden_bytes_give_the_value(sample):
    assert sample.parse((GOLDEN / sample.file).read_bytes()) == sample.value


@each(SAMPLES)
def test_the_value_gives_the_golden_bytes(sample):
    assert sample.render(sample.value).decode() == (GOLDEN / sample.file).read_text("utf-8")


@each(SAMPLES)
def test_a_field_nobody_knows_yet_is_ignored(sample):
    assert sample.parse(edited(sample, invented_later={"a": [1, None]})) == sample.value


@each(VERSIONED)
def test_the_version_is_written(sample):
    head = (GOLDEN / sample.file).read_bytes().partition(b"\n")[0]
    assert json.loads(head)["v"] == sample.version


@each(VERSIONED)
def test_an_absent_version_means_one(sample):
    head, newline, rest = (GOLDEN / sample.file).read_bytes().partition(b"\n")
    fields = json.loads(head)
    del fields["v"]
    assert sample.parse(compact(fields) + newline + rest) == sample.value


@each(VERSIONED)
def test_a_higher_version_is_refused_as_newer(sample):
    with pytest.raises(WireError, match=f"format {sample.version + 1} is newer than {sample.version}: update"):
        sample.parse(edited(sample, v=sample.version + 1))


@each(VERSIONED)
def test_a_higher_version_is_refused_as_newer_even_where_nothing_else_is_understood(sample):
    newer: dict[str, object] = {"v": sample.version + 1, "everything": "else"}
    if sample.file.startswith("manifest"):
        newer["t"] = "head"
    with pytest.raises(WireError, match=f"format {sample.version + 1} is newer than {sample.version}: update"):
        sample.parse(json.dumps(newer).encode())


@each(VERSIONED)
@pytest.mark.parametrize("version", [0, -1, True, 1.5, "1", None, 10**30])
def test_a_version_that_is_no_version_is_refused(sample, version):
    with pytest.raises(WireError):
        sample.parse(edited(sample, v=version))


def test_the_records_of_a_batch_are_the_bytes_of_the_outbox():
    batch = report.parse_batch((GOLDEN / "batch.json").read_bytes())
    assert [bytes(record) for record in batch.records] == RECORDS
    assert batch.last_seq == 5


def test_a_record_of_an_unknown_kind_is_read_without_its_body():
    *known, newer = [report.parse_record(record) for record in RECORDS]
    assert [type(report.parse_body(record)).__name__ for record in known] == [
        "ProbeBody",
        "ReleaseBody",
        "TagBody",
        "RoundBody",
    ]
    assert report.parse_body(newer) is None


def test_the_rolling_digest_is_what_the_reference_says():
    """docs/reference/formats.md: sha256(previous || sha256(record)), from sha256("<agent>\\n<epoch>\\n<lane>\\n")."""
    assert BATCH.digest == "cdcf1572119eec08f61a95e06042d6b406527adc3d28b7a918bd43f82adabddf"
    assert (
        report.roll_digest(BATCH.digest, RECORDS) == "d0e61a5ddcde6fe568b6347dce5e97292a14660d7fcd840ac33d028b0fed1e5e"
    )
    assert report.start_digest(AGENT, EPOCH, Lane.BACKFILL) != BATCH.digest


def test_paths_of_targets_are_what_the_delegations_expect():
    golden = release.parse_release(json.loads((GOLDEN / "release.json").read_text("utf-8")))
    assert release.target_path(golden) == "clients/grid-clients/6.1.0/x86_64-glibc2.36.manifest.zst"
    assert release.withdrawal_path(golden) == "withdrawals/grid-clients/6.1.0/x86_64-glibc2.36.json"
    assert golden.id == "grid-clients-6.1.0-x86_64-glibc2.36"
    assert golden.tags() == {"dteam": "VO-dteam-pps-6.1.0", "vo.example.org": "VO-vo.example.org-pps-6.1.0"}
    assert request.FLEET_KEYS_PATH == "fleet/keys.json"


def test_the_key_id_in_an_envelope_is_the_sha256_of_a_listed_key():
    keys = request.parse_fleet_keys((GOLDEN / "fleet-keys.json").read_bytes())
    envelope = msgspec.json.decode((GOLDEN / "envelope.json").read_bytes())
    assert [signature["keyid"] for signature in envelope["signatures"]] == [KEY_ID]
    assert [key.public for key in keys.keys] == [KEY.public_key().public_bytes_raw()]
