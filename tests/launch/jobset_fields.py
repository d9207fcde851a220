"""What the Kubernetes files of launch/cluster may say: every field they use with its type, unknown ones refused, so that a slip is seen offline.

Written from the API references of JobSet (v1alpha2), Job (batch/v1) and Pod (core/v1). A dict is an object with the fields it lists, those that
end in ! required; [form] a list of such; a set the allowed values; STRINGS a map of strings.
"""

from typing import Any

STRINGS = "map of strings"
QUANTITIES = "map of quantities"
_METADATA = {"name!": str, "annotations": STRINGS, "labels": STRINGS}
_EXIT_CODES = {"containerName": str, "operator!": {"In", "NotIn"}, "values!": [int]}
_POD_CONDITION = {"type!": str, "status": {"True", "False", "Unknown"}}
_CONTAINER = {
    "name!": str,
    "image!": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": {"fieldRef!": {"fieldPath!": str}}}],
    "ports": [{"name": str, "containerPort!": int}],
    "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
    "securityContext": {"allowPrivilegeEscalation": bool, "readOnlyRootFilesystem": bool, "privileged": bool, "capabilities": {"add": [str], "drop": [str]}},
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}],
}
_VOLUME = {
    "name!": str,
    "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
    "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": str},
}
_POD = {
    "restartPolicy": {"Never", "OnFailure"},
    "terminationGracePeriodSeconds": int,
    "automountServiceAccountToken": bool,
    "enableServiceLinks": bool,
    "securityContext": {
        **{"runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int},
        **{"fsGroupChangePolicy": {"OnRootMismatch", "Always"}, "seccompProfile": {"type!": {"RuntimeDefault", "Localhost", "Unconfined"}}},
    },
    "nodeSelector": STRINGS,
    "tolerations": [{"key": str, "operator": {"Exists", "Equal"}, "value": str, "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"}}],
    "containers!": [_CONTAINER],
    "volumes": [_VOLUME],
}
_JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules!": [{"action!": {"FailJob", "Ignore", "Count"}, "onExitCodes": _EXIT_CODES, "onPodConditions": [_POD_CONDITION]}]},
    "template!": {"metadata": {"labels": STRINGS, "annotations": STRINGS}, "spec!": _POD},
}
_RULE = {
    "name!": str,
    "action!": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
    "onJobFailureReasons": [{"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"}],
    "onJobFailureMessagePatterns": [str],
    "targetReplicatedJobs": [str],
}
JOBSET = {
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": _METADATA,
    "spec!": {
        "network": {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool},
        "failurePolicy": {"maxRestarts": int, "restartStrategy": {"Recreate", "BlockingRecreate"}, "rules": [_RULE]},
        "successPolicy": {"operator!": {"All", "Any"}, "targetReplicatedJobs": [str]},
        "coordinator": {"replicatedJob!": str, "jobIndex": int, "podIndex": int},
        "replicatedJobs!": [{"name!": str, "groupName": str, "replicas": int, "template!": {"metadata": {"annotations": STRINGS}, "spec!": _JOB}}],
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
    },
}
CLAIM = {
    "apiVersion!": {"v1"},
    "kind!": {"PersistentVolumeClaim"},
    "metadata!": _METADATA,
    "spec!": {"accessModes!": [{"ReadWriteMany"}], "storageClassName": str, "resources!": {"requests!": QUANTITIES}},
}


def problems(value: Any, form: Any, where: str = "") -> list[str]:
    """Returns a line for everything in `value` that does not have the form."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        forms = {name.rstrip("!"): one for name, one in form.items()}
        found = [f"{where}.{name}: missing" for name in form if name.endswith("!") and name.rstrip("!") not in value]
        found += [f"{where}.{name}: unknown" for name in value if name not in forms]
        return found + [line for name, one in value.items() if name in forms for line in problems(one, forms[name], f"{where}.{name}")]
    if isinstance(form, list):
        if not isinstance(value, list) or not value:
            return [f"{where}: no list with something in it"]
        return [line for number, one in enumerate(value) for line in problems(one, form[0], f"{where}[{number}]")]
    if isinstance(form, set):
        return [] if isinstance(value, str) and value in form else [f"{where}: {value!r} is not one of {sorted(form)}"]
    if form in (STRINGS, QUANTITIES):
        kinds = (str,) if form is STRINGS else (str, int)
        good = isinstance(value, dict) and all(isinstance(one, kinds) and not isinstance(one, bool) for one in value.values())
        return [] if good else [f"{where}: no {form}"]
    return [] if type(value) is form else [f"{where}: {value!r} is no {form.__name__}"]
