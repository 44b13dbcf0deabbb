"""scikit-learn's metrics, imported when they are called: each process of pytest reads all test files."""


def roc_auc_score(labels, scores) -> float:
    """The area under the ROC curve."""
    from sklearn import metrics

    return metrics.roc_auc_score(labels, scores)
