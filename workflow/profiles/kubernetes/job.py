#!/usr/bin/env python3
"""A script of Snakemake as a Kubernetes Job: submit, status, cancel. Called by snakemake-executor-plugin-cluster-generic."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import uuid


def manifest(script: str, cpu: int, mem_mb: int, minutes: int, gpu: int) -> dict:
    """The Job that runs ``script``, a file on the shared volume."""
    own = {name: os.environ.get(f"COURSE_{name.upper()}", "") for name in ("image", "claim", "mount")}
    missing = [f"COURSE_{name.upper()}" for name, value in own.items() if not value]
    if missing:
        sys.exit(f"Set {', '.join(missing)}: see the head of workflow/profiles/kubernetes/config.yaml.")
    wanted = {"cpu": str(cpu), "memory": f"{mem_mb}Mi", **({"nvidia.com/gpu": str(gpu)} if gpu else {})}
    container = {
        "name": "run",
        "image": own["image"],
        "command": ["/bin/sh", script],
        "workingDir": os.getcwd(),
        "resources": {"requests": wanted, "limits": {k: v for k, v in wanted.items() if k != "cpu"}},
        "volumeMounts": [{"name": "course", "mountPath": own["mount"]}],
        "env": [{"name": "SCFM_CACHE", "value": os.environ.get("SCFM_CACHE", "")}, {"name": "HOME", "value": "/tmp"}],
    }
    volume = {"name": "course", "persistentVolumeClaim": {"claimName": own["claim"]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"scfm-{uuid.uuid4().hex[:16]}", "labels": {"app": "scfm-course"}},
        "spec": {
            "backoffLimit": 0,  # Snakemake counts the attempts
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": {
                "spec": {
                    "activeDeadlineSeconds": 60 * minutes,  # of the pod: the job's would count the wait for a node too
                    "restartPolicy": "Never",
                    "containers": [container],
                    "volumes": [volume],
                }
            },
        },
    }


def kubectl(*words: str, text: str | None = None) -> str:
    command = ["kubectl", "--namespace", os.environ.get("COURSE_NAMESPACE", "default"), *words]
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=60).stdout


def status(name: str) -> str:
    """success, failed or running; running as well where the cluster does not answer: one lost question must not end a grid."""
    try:
        known = json.loads(kubectl("get", "job", name, "-o", "json")).get("status", {})
    except subprocess.CalledProcessError as error:
        print(f"kubectl failed: {error.stderr.strip()}", file=sys.stderr)
        return "failed" if "(NotFound)" in error.stderr else "running"
    except subprocess.TimeoutExpired as error:
        print(f"kubectl did not answer: {error}", file=sys.stderr)
        return "running"
    ended = {c["type"] for c in known.get("conditions", []) if c.get("status") == "True"}
    return "success" if "Complete" in ended else "failed" if "Failed" in ended else "running"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("cpu", 1), ("mem-mb", 6000), ("minutes", 60), ("gpu", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "words", nargs="+", help="submit and a script, status and a job's name, or the names of jobs to cancel"
    )
    args = parser.parse_intermixed_args()
    try:
        what, *words = args.words
        if what == "submit":
            job = manifest(words[0], args.cpu, args.mem_mb, args.minutes, args.gpu)
            kubectl("create", "-f", "-", text=json.dumps(job))
            print(job["metadata"]["name"])
        elif what == "status":
            print(status(words[0]))
        else:
            kubectl("delete", "job", "--ignore-not-found", *args.words)
    except subprocess.CalledProcessError as error:
        sys.exit(f"kubectl failed: {error.stderr.strip()}")
    except subprocess.TimeoutExpired as error:
        sys.exit(f"kubectl did not answer: {error}")
    except FileNotFoundError:
        sys.exit("There is no kubectl here; start the grid where it is.")


if __name__ == "__main__":
    main()
