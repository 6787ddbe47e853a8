import json

import pytest
import torch
from story_samples import SPEC, babi_folder, batch
from toolkit_text import story_picture
from toolkit_text.data.stories import Stories
from toolkit_text.story_metrics import mean_task_error, solved_tasks, support_mass, task_errors
from toolkit_text.tasks.answering import Answering, asked_in

from toolkit import checkpoint
from toolkit.choice import Choice
from toolkit.errors import DataError, RecipeError, RunError, ToolkitWarning
from toolkit.recipe import load
from toolkit.run import train
from toolkit.trained import evaluate, open_run, predict, predict_file, predict_texts

METRICS = ["accuracy", "mean_task_error", "solved_tasks", "task_errors", "support_mass"]


def recipe(folder, toolkit, *overrides, **sections):
    document = {
        "name": "mine",
        "data": {"use": "text:stories", "tasks": ["one_fact"], "train": 300, "val": 20, "test": 30, "noise": 0.1},
        "task": {"use": "text:answering", "metrics": METRICS},
        "model": {"use": "text:memory_network", "dim": 32, "hops": 2, "linear_start": 2},
        "attention": "dot",
        "optimizer": {"use": "adam", "lr": 0.01},
        "trainer": {"max_epochs": 20, "accelerator": "cpu"},
        **sections,
    }
    path = folder / "mine.yaml"
    path.write_text(json.dumps(document))
    return load(str(path), toolkit, ["loggers=[]", *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned where people are."""
    from toolkit.plugins import Toolkit, using

    toolkit = Toolkit()
    toolkit.load_entry_points()
    folder = tmp_path_factory.mktemp("answering")
    with using(toolkit):
        return train(recipe(folder, toolkit), out=folder / "run", quiet=True)


# Runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_learns_where_people_are_and_looks_at_the_sentence_that_says_so(run, toolkit):
    assert run.metrics["test/accuracy"] > 0.9
    assert run.metrics["test/support_mass"] > 0.8
    assert run.metrics["test/mean_task_error"] == pytest.approx(1 - run.metrics["test/accuracy"], abs=1e-6)
    assert run.metrics["test/task_errors/one_fact"] == run.metrics["test/mean_task_error"]
    assert evaluate(run.directory, []).metrics["test/accuracy"] == run.metrics["test/accuracy"]


def test_rows_hold_the_answer_and_what_each_hop_looks_at(run, toolkit):
    rows = list(predict(run.directory, []))
    data = open_run(run.directory, [])[1]
    asked = data.texts["test"]
    assert [row["row"] for row in rows] == list(range(len(asked)))
    right = sum(row["class"] == each.answer for row, each in zip(rows, asked, strict=True))
    assert right / len(rows) == pytest.approx(run.metrics["test/accuracy"])
    for row, each in zip(rows, asked, strict=True):
        told = [sentence.lower().rstrip(".") for sentence in each.sentences]
        assert len(row["attended"]) == 2
        assert all(hop["sentence"] in told and 0 < hop["weight"] <= 1 for hop in row["attended"])
        assert row["question"] + "?" == each.question.lower()


def test_a_story_of_ones_own_is_answered(run, toolkit):
    told = "Ada walks to the mill. Bo goes to the tower. Where is Ada now?"
    as_list = {"story": ["Ada walks to the mill.", "Bo goes to the tower."], "question": "Where is Ada now?"}
    as_text = {"story": "Ada walks to the mill. Bo goes to the tower.", "question": "Where is Ada now?"}
    rows = predict_texts(run.directory, [told, json.dumps(as_list), json.dumps(as_text)])
    assert [row["class"] for row in rows] == ["mill"] * 3
    assert rows[0]["probabilities"] == pytest.approx(rows[1]["probabilities"])
    assert rows[0]["attended"][-1]["sentence"] == "ada walks to the mill"


def test_a_file_of_stories_is_answered_row_by_row(run, toolkit, tmp_path):
    stories = [
        {
            "story": ["Bo runs to the tower.", "Ada walks to the mill.", "Emil goes to the bridge."],
            "question": "Where is Ada now?",
        },
        {"story": ["Bo goes to the bakery."], "question": "Where is Bo now?"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(each) + "\n" for each in stories))
    rows = list(predict_file(run.directory, tmp_path / "mine.jsonl"))
    assert [(row["row"], row["class"]) for row in rows] == [(0, "mill"), (1, "bakery")]
    (tmp_path / "mine.csv").write_text("text,asked\nBo goes to the bakery.,Where is Bo now?\n")
    rows = list(predict_file(run.directory, tmp_path / "mine.csv", ["text", "asked"]))
    assert [(row["row"], row["class"]) for row in rows] == [(0, "bakery")]
    with pytest.raises(DataError, match="no column 'story'"):
        list(predict_file(run.directory, tmp_path / "mine.csv"))
    with pytest.raises(DataError, match="name two columns"):
        list(predict_file(run.directory, tmp_path / "mine.csv", ["text"]))


def test_words_that_training_never_had_are_counted(run, toolkit):
    with pytest.warns(ToolkitWarning, match="3 words of these stories are not known from training.*'zeppelin', 'zoe'"):
        predict_texts(run.directory, ["Ada walks to the zeppelin. Zoe waits. Where is Ada now?"] * 2)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Where is Ada now?", "story 0 .* is empty: there is no sentence before the question 'Where is Ada now"),
        ("Ada walks to the mill.", "story 0 .* asks nothing"),
        ("", "asks nothing"),
        ('{"story": [], "question": "Where?"}', "is empty"),
        ('{"story": [" "], "question": "Where?"}', "is empty"),
        ('{"story": ["Ada waits."], "question": " "}', "asks nothing"),
        ('{"story": ["Ada waits."]}', "wants a list of sentences and a question"),
        ('{"story": [1], "question": "Where?"}', "wants a list of sentences and a question"),
        ('{"story": ["Ada waits."], "question": 3}', "wants a list of sentences and a question"),
        ('{"story": ["Ada waits."', "is no JSON"),
    ],
)
def test_what_is_no_story_is_told(text, what):
    with pytest.raises(DataError, match=what):
        asked_in(text, 0)


def test_a_sentence_without_words_is_told(run, toolkit):
    with pytest.raises(DataError, match=r"question 0 has a sentence without words: '\.\.\.'"):
        predict_texts(run.directory, ['{"story": ["..."], "question": "Where is Ada now?"}'])


def test_a_broken_off_run_goes_on_as_if_it_had_not_been(toolkit, tmp_path):
    """Noise and the linear start, which ends after the break, are as in an unbroken run."""
    whole = train(recipe(tmp_path, toolkit, "trainer.max_epochs=3"), out=tmp_path / "whole", quiet=True, test=False)
    first = train(recipe(tmp_path, toolkit, "trainer.max_epochs=1"), out=tmp_path / "parts", quiet=True, test=False)
    rest = recipe(tmp_path, toolkit, "trainer.max_epochs=3")
    second = train(rest, resume=first.directory, quiet=True, test=False)
    states = [checkpoint.read(each.directory / "checkpoints" / "last.ckpt")["state_dict"] for each in (whole, second)]
    assert int(states[0]["model.validations"]) == 2
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize(
    "model", [{"use": "text:story_transformer", "dim": 16, "heads": 2, "num_layers": 1}, {"use": "text:memory_network"}]
)
def test_babi_trains_and_other_tasks_of_it_are_evaluated(model, toolkit, tmp_path):
    babi_folder(tmp_path / "babi")
    data = {"use": "text:babi", "folder": str(tmp_path / "babi"), "tasks": [1, 19]}
    made = recipe(tmp_path, toolkit, data=data, model=model, trainer={"max_epochs": 1, "accelerator": "cpu"})
    result = train(made, out=tmp_path / "run", quiet=True)
    assert {"test/task_errors/qa1", "test/task_errors/qa19"} <= set(result.metrics)
    one = evaluate(result.directory, ["data.tasks=[1]"]).metrics
    assert one["test/mean_task_error"] == pytest.approx(result.metrics["test/task_errors/qa1"])
    assert "test/task_errors/qa19" not in one


# Metrics ------------------------------------------------------------------------------------------------------------


def test_errors_are_by_task():
    spec = {"tasks": ["a", "b", "c"]}
    preds = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    target, task = torch.tensor([0, 1, 2, 1, 1]), torch.tensor([0, 0, 2, 2, 0])
    metrics = [make(spec) for make in (task_errors, mean_task_error, solved_tasks)]
    for metric in metrics:
        for part in (slice(0, 2), slice(2, 5)):
            metric.update(preds[part], target[part], task=task[part])
    errors, mean, solved = (metric.compute() for metric in metrics)
    assert {name: float(value) for name, value in errors.items()} == {"a": 0.0, "c": 0.5}
    assert float(mean) == 0.25
    assert int(solved) == 1


@pytest.mark.parametrize(("wrong", "solved"), [(50, 1), (51, 0)])
def test_a_task_is_solved_up_to_an_error_of_5_percent(wrong, solved):
    metric = solved_tasks({"tasks": ["a"]})
    preds = torch.eye(2)[(torch.arange(1000) < wrong).long()]
    metric.update(preds, torch.zeros(1000, dtype=torch.long), task=torch.zeros(1000, dtype=torch.long))
    assert int(metric.compute()) == solved


def test_mass_on_support_is_what_the_best_hop_gives_each_sentence():
    torch.manual_seed(0)
    chosen = Choice(
        "models", "text:memory_network", {"dim": 8, "hops": 2}, parts={"attention": Choice("attention", "dot")}
    )
    task = Answering(spec=SPEC, model=chosen, metrics=["support_mass"])
    told = batch()
    weights, found = task.looks(told), task.support_mass(told)
    wanted = (weights[0, :, 0].max() + weights[0, :, 2].max()) / 2
    torch.testing.assert_close(found[:2], torch.stack([wanted, torch.tensor(1.0)]))
    assert found[2].isnan()  # nothing is known to support it
    metric = support_mass({})
    metric.update(torch.zeros(3, 3), told.target, support_mass=found)
    torch.testing.assert_close(metric.compute().float(), found[:2].mean())


def test_a_metric_by_task_wants_data_with_tasks():
    with pytest.raises(RecipeError, match="reads 'tasks' from its data, whose spec has classes"):
        mean_task_error({"classes": ["a", "b"]})


def test_a_metric_that_reads_what_a_batch_has_not_is_told():
    chosen = Choice("models", "text:memory_network", {"dim": 8}, parts={"attention": Choice("attention", "dot")})
    task = Answering(spec=SPEC, model=chosen)
    assert torch.equal(task.beside("test", "task", batch()), batch().task)
    with pytest.raises(RecipeError, match="reads 'speaker' of each item, which StoryBatch does not have"):
        task.beside("test", "speaker", batch())


# Pictures -----------------------------------------------------------------------------------------------------------


def test_a_picture_shows_the_hops(run, toolkit, tmp_path):
    told = "Ada walks to the mill. Bo goes to the tower. Where is Ada now?"
    row = story_picture.draw(run.directory, told, tmp_path / "story.png")
    assert row["class"] == "mill"
    assert (tmp_path / "story.png").read_bytes()[:4] == b"\x89PNG"


def test_there_is_nothing_to_draw_without_hops(toolkit, tmp_path):
    model = {"use": "text:memory_network", "dim": 8}
    made = recipe(tmp_path, toolkit, "trainer.max_epochs=1", model=model, attention=None)
    result = train(made, out=tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match="nothing to draw"):
        story_picture.draw(result.directory, "Ada walks to the mill. Where is Ada now?", tmp_path / "story.png")


def test_data_of_another_kind_is_refused(run, toolkit):
    data = Stories(tasks=["yes_no"], train=5, val=5, test=5)
    data.trained = open_run(run.directory, [])[0].payload.spec
    with pytest.raises(DataError, match=r"has the answer '(yes|no)', which training did not"):
        data.setup()
