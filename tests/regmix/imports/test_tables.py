"""Swarms from CSV: joined by id, never by position; whatever is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regmix import imports
from regmix.errors import UserError
from regmix.intake import create_for_import


def test_frames_are_joined_by_id(swarm_files: Any) -> None:
    swarm_files.write(values=swarm_files.values.iloc[::-1])
    found = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
    assert list(found.weights.index) == list(found.metrics.index) == list(swarm_files.weights.index)
    expected = swarm_files.values[["acc", "loss"]]
    pd.testing.assert_frame_equal(found.metrics, expected, check_names=False, check_exact=True)
    expected = swarm_files.weights[["code", "math", "web"]]
    pd.testing.assert_frame_equal(found.weights, expected, check_names=False)
    assert found.notes == ()


def test_known_prefixes_are_stripped(swarm_files: Any) -> None:
    swarm_files.write(
        swarm_files.weights.add_prefix("train_"),
        swarm_files.values.add_prefix("metric/").add_suffix("_val_loss"),
    )
    found = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
    assert list(found.weights) == ["code", "math", "web"]
    assert list(found.metrics) == ["acc", "loss"]


def test_a_prefix_that_only_some_columns_have_is_part_of_the_name(swarm_files: Any) -> None:
    swarm_files.write(swarm_files.weights.rename(columns={"web": "train_web"}))
    found = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
    assert list(found.weights) == ["code", "math", "train_web"]


def test_rounded_rows_are_corrected_and_noted(swarm_files: Any) -> None:
    swarm_files.write(swarm_files.weights.round(3))
    found = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
    assert found.weights.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-12)
    assert len(found.notes) == 1
    assert "of 24 rows summed to 1 only up to rounding" in found.notes[0]


def test_ids_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    mixtures, metrics = tmp_path / "x.csv", tmp_path / "y.csv"
    mixtures.write_text("run,a,b\n007,0.5,0.5\nNA,0.25,0.75\n1e3,1,0\n", encoding="utf-8")
    metrics.write_text("run,loss\nNA,1\n1e3,2\n 007,3\n", encoding="utf-8")
    found = imports.read_csvs(mixtures, metrics)
    assert found.metrics["loss"].to_dict() == {"007": 3.0, "NA": 1.0, "1e3": 2.0}


def test_the_stamp_is_the_content_not_its_order(swarm_files: Any) -> None:
    def stamp() -> str:
        return imports.read_csvs(swarm_files.mixtures, swarm_files.metrics).stamp

    first = stamp()
    swarm_files.write(
        swarm_files.weights.sample(frac=1, random_state=1)[["math", "web", "code"]],
        swarm_files.values.sample(frac=1, random_state=2)[["acc", "loss"]],
    )
    assert stamp() == first
    swarm_files.write(values=swarm_files.values + 1e-12)
    assert stamp() != first


def spoil(frame: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    changed = frame.astype(object)
    changed.iloc[row, list(frame).index(column)] = value
    return changed


def scaled(frame: pd.DataFrame) -> pd.DataFrame:
    changed = frame.copy()
    changed.iloc[5] *= 0.9
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled, r"mixtures\.csv: weights of run r05 sum to 0\.9, not 1"),
        (lambda w: spoil(w, 3, "code", -0.25),
         r"mixtures\.csv: run r03: weight of 'code' is negative \(-0\.25\)"),
        (lambda w: spoil(w, 3, "code", None),
         r"mixtures\.csv: run r03: weight of 'code' is missing or not finite \(nan\)"),
        (lambda w: spoil(w, 3, "code", "inf"),
         r"mixtures\.csv: run r03: weight of 'code' is missing or not finite \(inf\)"),
        (lambda w: spoil(w, 3, "code", "many"),
         r"mixtures\.csv: column 'code', run r03: 'many' is not a number"),
        (lambda w: w.rename(index={"r04": "r03"}), r"mixtures\.csv: 'run' names run r03 twice"),
        (lambda w: w.rename(index={"r04": ""}), r"mixtures\.csv: row 5: 'run' is empty"),
        (lambda w: w.rename(columns={"code": "web"}),
         r"mixtures\.csv: column 'web' is named twice"),
        (lambda w: w.iloc[:0], r"mixtures\.csv: has no rows"),
        (lambda w: w[[]], r"mixtures\.csv: no column but ids \(run\)"),
        (lambda w: w.drop(index="r07"),
         r"1 runs are in .*metrics\.csv but not in .*mixtures\.csv: r07 \(--allow-missing"),
    ],
)  # fmt: skip
def test_faulty_mixtures_are_refused(
    swarm_files: Any, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    swarm_files.write(change(swarm_files.weights))
    with pytest.raises(UserError, match=message):
        imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: spoil(m, 2, "loss", None),
         r"1 runs are without a finite value for every metric in .*metrics\.csv: r02"),
        (lambda m: spoil(m, 2, "loss", "inf"), r"without a finite value .*: r02"),
        (lambda m: spoil(m, 2, "loss", "low"),
         r"metrics\.csv: column 'loss', run r02: 'low' is not a number"),
        (lambda m: m.drop(index=["r01", "r02"]),
         r"2 runs are in .*mixtures\.csv but not in .*metrics\.csv: r01, r02"),
        (lambda m: m.rename(index={"r04": "r03"}), r"metrics\.csv: 'run' names run r03 twice"),
        (lambda m: m[[]], r"metrics\.csv: no column but ids \(run\)"),
        (lambda m: m.rename(columns={"loss": "seed"}), r"metric 'seed' is named like a column"),
        *((lambda m, name=name: m.add_prefix("metric/").rename(columns={"metric/loss":
           f"metric/{name}"}), rf"metric '{name}' is named like a column")
          for name in ("name", "index", "id", "run", "run_id")),
        (lambda m: m.assign(loss_std=m["loss"]), r"'loss_std' stands beside 'loss'"),
    ],
)  # fmt: skip
def test_faulty_metrics_are_refused(
    swarm_files: Any, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    swarm_files.write(values=change(swarm_files.values))
    with pytest.raises(UserError, match=message):
        imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)


def test_no_id_column_in_common_is_refused(swarm_files: Any) -> None:
    swarm_files.values.to_csv(swarm_files.metrics, index_label="name")
    with pytest.raises(UserError, match=r"mixtures\.csv and .*metrics\.csv have no id column in"):
        imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
    swarm_files.values.to_csv(swarm_files.metrics, index_label="experiment")
    with pytest.raises(UserError, match=r"metrics\.csv: no id column \(one of run_id, run, id"):
        imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)


def test_what_is_no_table_is_refused(swarm_files: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        imports.read_csvs(tmp_path / "none.csv", swarm_files.metrics)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        imports.read_csvs(tmp_path, swarm_files.metrics)
    swarm_files.mixtures.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"mixtures\.csv: not a CSV table"):
        imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
    swarm_files.mixtures.write_bytes(b"run,caf\xe9\n1,1\n")
    with pytest.raises(UserError, match=r"mixtures\.csv: not a CSV table"):
        imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)


def test_allow_missing_leaves_out_and_says_which(swarm_files: Any) -> None:
    values = spoil(swarm_files.values.drop(index="r01"), 4, "loss", None)
    swarm_files.write(swarm_files.weights.drop(index="r09"), values)
    found = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics, allow_missing=True)
    left_out = {"r01": "r01", "r05": "r05 (loss)", "r09": "r09"}
    assert set(found.weights.index) == set(swarm_files.weights.index) - set(left_out)
    assert list(found.weights.index) == list(found.metrics.index)
    for shown in left_out.values():
        assert sum(note.endswith(f": {shown}") for note in found.notes) == 1, found.notes


def test_mixtures_are_put_in_the_order_that_is_asked(swarm_files: Any) -> None:
    table = imports.read_mixtures(swarm_files.mixtures, ["math", "web", "code"])
    assert table.id_column == "run"
    assert list(table.weights) == ["math", "web", "code"]
    with pytest.raises(UserError, match=r"unknown domain 'math'. Valid: books, code, web"):
        imports.read_mixtures(swarm_files.mixtures, ["books", "web", "code"])
    with pytest.raises(UserError, match=r"mixtures\.csv: no column for domain books"):
        imports.read_mixtures(swarm_files.mixtures, ["math", "web", "code", "books"])


def test_shuffled_files_make_the_same_study(swarm_files: Any, tmp_path: Path) -> None:
    studies = []
    for number in range(2):
        runs = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
        sources = [swarm_files.mixtures, swarm_files.metrics]
        studies.append(create_for_import(tmp_path / f"s{number}" / "study", runs, sources))
        swarm_files.write(
            swarm_files.weights.sample(frac=1, random_state=5)[["math", "code", "web"]],
            swarm_files.values.sample(frac=1, random_state=6)[["acc", "loss"]],
        )
    one, other = (s.observations() for s in studies)
    pd.testing.assert_frame_equal(one.frame(), other.frame(), check_exact=True)
    assert one.domains == other.domains == studies[0].domains
    assert list(one.weights.index) == sorted(swarm_files.weights.index)
    expected = swarm_files.weights.loc[one.weights.index, list(one.domains)]
    assert np.abs(one.weights - expected).to_numpy().max() < 1e-15


def test_an_import_is_kept_once(swarm_files: Any, tmp_path: Path) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    for _ in range(2):
        study = create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    assert len(list(study.layout.imports.iterdir())) == 1
    assert len(study.observations().weights) == 24
    assert study.store.ingest() == 0


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("r03,", "r99,"),
        lambda text: text.replace("2.", "3.", 1),
        lambda text: text.replace(",2.", ",", 1),
        lambda text: text.replace("loss", "perplexity"),
        lambda text: "\n".join(text.splitlines()[:-1]) + "\n",
    ],
)
def test_a_file_that_was_changed_after_the_import_is_noticed(
    swarm_files: Any, tmp_path: Path, edit: Callable[[str], str]
) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    runs = imports.read_csvs(*sources)
    study = create_for_import(tmp_path / "study", runs, sources)
    assert len(study.observations().weights) == 24
    path = study.layout.imports / runs.stamp / "metrics.csv"
    before = path.read_text("utf-8")
    path.write_text(edit(before), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{runs.stamp}: its files were changed") as e:
        study.observations()
    assert "delete this folder and run `regmix import` again" in str(e.value)
    assert str(swarm_files.metrics) in str(e.value)
    path.write_text("\n".join([before.splitlines()[0], *before.splitlines()[:0:-1]]), "utf-8")
    assert len(study.observations().weights) == 24, "the order of rows means nothing"
    path.unlink()
    with pytest.raises(UserError, match=r"metrics\.csv: no such file"):
        study.observations()


def test_a_second_import_adds_runs_but_never_replaces_one(swarm_files: Any, tmp_path: Path) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    swarm_files.write(values=swarm_files.values + 1)
    with pytest.raises(UserError, match=r"run 'r00' \(and 23 more\) stands already in .*imports"):
        create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    swarm_files.write(swarm_files.weights.add_suffix("", axis=0).rename(index="x{}".format),
                      swarm_files.values.rename(index="x{}".format))  # fmt: skip
    study = create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    assert len(study.observations().weights) == 48


def test_other_domains_than_the_study_has_are_refused(swarm_files: Any, tmp_path: Path) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    swarm_files.write(swarm_files.weights.rename(columns={"web": "books"}))
    with pytest.raises(UserError, match=r"study\.yaml: domains code, math, web; the import has"):
        create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)


@pytest.mark.parametrize("folder", ["2024", "1e5", "on", "my study", "it's", ".x"])
def test_any_folder_name_gives_a_study_that_opens(
    swarm_files: Any, tmp_path: Path, folder: str
) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    study = create_for_import(tmp_path / folder, imports.read_csvs(*sources), sources)
    assert len(study.observations().weights) == 24


def test_domains_that_no_study_can_name_are_refused_before_anything_is_written(
    swarm_files: Any, tmp_path: Path
) -> None:
    swarm_files.write(swarm_files.weights.rename(columns={"web": "Pile CC"}))
    sources = [swarm_files.mixtures, swarm_files.metrics]
    with pytest.raises(
        UserError, match=r"mixtures\.csv: domain 'Pile CC': a name has .* no spaces"
    ):
        create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    assert not (tmp_path / "study" / "study.yaml").exists()


def test_domains_that_look_like_numbers_or_need_quotes(swarm_files: Any, tmp_path: Path) -> None:
    names = {"web": "1e5", "code": "it's:#x", "math": "数学"}
    swarm_files.write(swarm_files.weights.rename(columns=names))
    sources = [swarm_files.mixtures, swarm_files.metrics]
    study = create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    assert set(study.domains) == set(names.values())


@pytest.mark.parametrize(
    ("mixtures", "metrics", "shape"),
    [
        ("regmix_swarm/train_mixture_1m.csv", "regmix_swarm/train_pile_loss_1m.csv", (512, 17, 13)),
        ("olmix_swarm/ratios.csv", "olmix_swarm/metrics.csv", (64, 22, 110)),
    ],
)
def test_published_swarms_as_they_are(
    real_data: Path, mixtures: str, metrics: str, shape: tuple[int, int, int]
) -> None:
    found = imports.read_csvs(real_data / mixtures, real_data / metrics)
    assert (len(found.weights), found.weights.shape[1], found.metrics.shape[1]) == shape
    assert list(found.weights.index) == list(found.metrics.index)
    assert found.weights.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-12)


def test_published_rows_are_joined_by_their_own_id(real_data: Path) -> None:
    folder = real_data / "olmix_swarm"
    found = imports.read_csvs(folder / "ratios.csv", folder / "metrics.csv")
    raw = pd.read_csv(folder / "metrics.csv").set_index("run")
    assert set(found.weights.index) == set(raw.index)
    assert found.metrics["arc_easy:rc::olmes"].to_dict() == raw["arc_easy:rc::olmes"].to_dict()
