"""`PromptClassifier` in scikit-learn's hands: its own estimator checks, and the tools people put around it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

from anprompt.backbones import Backbone
from anprompt.classifier import PromptClassifier
from anprompt.errors import UserError


class OnRows(PromptClassifier):
    """Rows of numbers as pictures of grey stripes, since scikit-learn's checks know tables only."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.no_validation = True, False
        tags.input_tags.three_d_array = tags.input_tags.string = False
        tags.classifier_tags.poor_score = True  # a random CLIP, two steps of training
        return tags

    def fit(self, X, y):
        X, y = validate_data(self, X, y)
        return super().fit(self.stripes(X), y)

    def decision_function(self, X):
        return super().decision_function(self.checked(X))

    def predict_proba(self, X):
        return super().predict_proba(self.checked(X))

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)] if hasattr(self, "method_") else super().predict(X)

    def score(self, X, y, sample_weight=None):
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight)

    def checked(self, X):
        self.classifier()  # not trained: said before anything is said of X
        return self.stripes(validate_data(self, X, reset=False))

    @staticmethod
    def stripes(X):
        grey = (255 / (1 + np.exp(-X.astype(np.float64)))).astype(np.uint8)
        return np.repeat(np.repeat(grey[:, None, :, None], 8, axis=1), 3, axis=3)


QUICK = {"epochs": 1, "warmup_epochs": 0, "lr": 5e-3}
DO_NOT_APPLY = {
    "check_methods_subset_invariance": "asks for 1e-7: a matrix product in fp32 rounds differently by batch size "
    "(test_predict.py asks for 1e-5)"
}


def small(backbone: Backbone | str, **changes) -> PromptClassifier:
    return PromptClassifier(
        backbone, method="coop", **{"settings": {"n_context": 2}, "shots": 4, "train": QUICK, **changes}
    )


@pytest.fixture(scope="module")
def data(photo_folder: Path) -> tuple[list[str], list[str]]:
    paths = sorted(photo_folder.glob("[rb]*/[0-3].png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


# --- scikit-learn's own checks --------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
def test_estimator_checks(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    # By name, as users give it: scikit-learn compares parameters by their bytes, which a model has many of.
    monkeypatch.setattr("anprompt.classifier.load_backbone", lambda *_, **__: tiny_backbone)
    results = check_estimator(
        OnRows("tiny", method="coop", settings={"n_context": 1}, shots=1, train=QUICK),
        expected_failed_checks=DO_NOT_APPLY, on_skip=None, on_fail=None,
    )  # fmt: skip
    failed = {result["check_name"]: str(result["exception"]) for result in results if result["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) > 40


# --- what the others check, with pictures ---------------------------------------------------------
def test_fit_keeps_parameters_and_returns_itself(tiny_backbone: Backbone, data) -> None:
    X, y = data
    clf = small(tiny_backbone)
    before = clf.get_params()
    assert clf.fit(X, y) is clf and clf.get_params() == before
    after = {key for key in vars(clf) if key not in before}
    assert all(key.endswith("_") or key.startswith("_") for key in after), after
    check_is_fitted(clf)
    assert list(clf.classes_) == sorted(set(y)) and is_classifier(clf)


def test_unfitted(tiny_backbone: Backbone, data) -> None:
    for call in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError, match="not trained"):
            getattr(small(tiny_backbone), call)(data[0])
    with pytest.raises(NotFittedError):
        check_is_fitted(small(tiny_backbone))


def test_tables_of_numbers_are_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="no pictures"):
        small(tiny_backbone).fit(np.random.default_rng(0).random((8, 5)), ["a", "b"] * 4)


def test_answers_agree(tiny_backbone: Backbone, photo_folder: Path, data) -> None:
    X, y = data
    two = small(tiny_backbone).fit(X, y)
    scores, shares = two.decision_function(X), two.predict_proba(X)
    assert scores.shape == (len(X),) and shares.shape == (len(X), 2)
    assert (two.predict(X) == two.classes_[(scores > 0).astype(int)]).all()
    assert np.allclose(1 / (1 + np.exp(-scores)), shares[:, 1], atol=1e-5)
    three = two.decision_function(X, ["a", "b", "c"])
    assert three.shape == (len(X), 3)
    weights = np.arange(len(X)) + 1.0
    right = two.predict(X) == np.array(y)
    assert two.score(X, y, sample_weight=weights) == pytest.approx(np.average(right, weights=weights))


def test_labels_keep_their_form(tiny_backbone: Backbone, data) -> None:
    """Metrics compare what `predict` gives with `y` as it was, so "red_square" must not become "red square"."""
    X, y = data
    clf = small(tiny_backbone).fit(X, np.array(y, dtype=object))
    assert set(clf.predict(X)) <= set(y) and clf.score(X, y) == (clf.predict(X) == np.array(y)).mean()


def test_copies(tiny_backbone: Backbone, data) -> None:
    X, y = data
    clf = small(tiny_backbone).fit(X, y)
    copy = clone(clf)
    assert copy.backbone is tiny_backbone and not hasattr(copy, "method_")  # frozen: shared, not copied
    assert copy.settings == clf.settings and copy.settings is not clf.settings
    thawed = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(thawed.predict_proba(X), clf.predict_proba(X))


# --- the tools around it --------------------------------------------------------------------------
def test_cross_validation(tiny_backbone: Backbone, data) -> None:
    X, y = data
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    for scoring in (None, "accuracy", "neg_log_loss"):
        scores = cross_val_score(small(tiny_backbone), X, y, cv=folds, scoring=scoring, error_score="raise")
        assert len(scores) == 2 and np.isfinite(scores).all()
    whole = cross_val_score(small(tiny_backbone), X, y, cv=folds, scoring="accuracy")
    assert np.array_equal(whole, cross_val_score(small(tiny_backbone), X, y, cv=folds))


def test_search_and_pipeline(tiny_backbone: Backbone, data) -> None:
    X, y = data
    steps = Pipeline(
        [("paths", FunctionTransformer(lambda rows: [str(row) for row in rows])), ("clf", small(tiny_backbone))]
    )
    search = GridSearchCV(steps, {"clf__shots": [1, 2]}, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_["clf__shots"] in (1, 2) and 0 <= search.best_score_ <= 1
    assert set(search.predict(X)) <= set(y) and search.predict_proba(X).shape == (len(X), 2)
