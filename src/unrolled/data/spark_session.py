"""A Spark session for a preparation: started without a word on the terminal, ended without a trace.

A session that is active already, in a notebook or a job of a cluster, is used and left running.
Otherwise Spark is started where its own configuration says: `local[*]`, all cores of this machine,
unless SPARK_CONF_DIR or PYSPARK_SUBMIT_ARGS name a cluster.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from unrolled.errors import UserError

_MEBIBYTES = {"": 2**-20, "KB": 1e3 / 2**20, "MB": 1e6 / 2**20, "GB": 1e9 / 2**20,
              "TB": 1e12 / 2**20, "KIB": 2**-10, "MIB": 1, "GIB": 2**10, "TIB": 2**20}  # fmt: skip
_JAVA = 17
_LEAST_MEBIBYTES = 512  # Spark does not start with less than 450.

_SETTINGS = {
    # A time without a zone means the same wherever it is read.
    "spark.sql.session.timeZone": "UTC",
    # A cast that can't be done is an error, unless it is a TRY_CAST; decimals are exact as text.
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    # A row of a CSV with too few values is noticed also where they are not used.
    "spark.sql.csv.parser.columnPruning.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(1 << 16),
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
}


@contextmanager
def spark_session(folder: Path, memory_limit: str) -> Iterator[SparkSession]:
    """A session with the settings of a preparation.

    Args:
        folder: For what does not fit into the memory of the driver, and for Spark's messages.
        memory_limit: Of the driver, for example `2GB`; at least 512 MiB. Of a session that is
            active already it is what it is.

    Raises:
        UserError: When there is no Java, or Spark does not start.
    """
    with _quiet():
        active = SparkSession.getActiveSession()
        if active is not None:
            yield _with_settings(active.newSession())
            return
        interrupt = signal.getsignal(signal.SIGINT)
        context = _start(folder, memory_limit)
        try:
            if threading.current_thread() is threading.main_thread():
                # A context takes over the signal, and asks Java from within its own question.
                signal.signal(signal.SIGINT, interrupt)
            yield _with_settings(SparkSession(context))
        finally:
            _end(context)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what pyspark and py4j write beside their exceptions off the terminal."""

    def of_others(record: logging.LogRecord) -> bool:
        return "py4j" not in Path(record.pathname).parts

    # py4j tells the root logger of every connection that breaks, an interrupted one too.
    logging.getLogger().addFilter(of_others)
    py4j = logging.getLogger("py4j")
    propagate, py4j.propagate = py4j.propagate, False
    try:
        with warnings.catch_warnings():
            # pyspark warns of pandas 3, which it loads for mapInArrow and does not use there.
            warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
            yield
    finally:
        logging.getLogger().removeFilter(of_others)
        py4j.propagate = propagate


def _with_settings(session: SparkSession) -> SparkSession:
    for key, value in _SETTINGS.items():
        session.conf.set(key, value)
    return session


def _start(folder: Path, memory_limit: str) -> SparkContext:
    java = _java()
    folder.mkdir(parents=True, exist_ok=True)
    messages = folder / "messages.txt"
    conf = SparkConf(loadDefaults=False)
    settings = {
        "spark.app.name": "unrolled prepare",
        "spark.driver.memory": f"{_mebibytes(memory_limit)}m",
        # Of the driver alone: the executors of a cluster have folders of their own.
        "spark.driver.defaultJavaOptions": f'"-Djava.io.tmpdir={folder.resolve()}"',
        "spark.driver.maxResultSize": "0",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    for key, value in settings.items():
        conf.set(key, value)
    # On this machine the Python that runs here; on a cluster PYSPARK_PYTHON says which.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    with messages.open("wb") as stream:
        try:
            gateway = launch_gateway(conf, {"stdout": stream, "stderr": stream})
            return SparkContext(gateway=gateway, conf=conf)
        except (PySparkRuntimeError, OSError) as error:
            raise UserError(
                f"data.engine=spark: Spark does not start with {java}: {_reason(messages) or error}"
            ) from error


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(home) / "bin" / "java") if home else "java")
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no java on the PATH"
        raise UserError(
            f"data.engine=spark needs Java {_JAVA} or later: {where}; install it, for example the "
            "package openjdk-17-jre-headless, or set JAVA_HOME"
        )
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    if version is not None and int(version[1]) < _JAVA:
        raise UserError(
            f"data.engine=spark needs Java {_JAVA} or later: {java} is Java {version[1]}; "
            "let JAVA_HOME name another"
        )
    return java


def _reason(messages: Path) -> str:
    """The line of Java's output that says what is wrong."""
    lines = messages.read_text(errors="replace").splitlines()
    telling = [line for line in lines if re.search("Error|Exception", line)]
    return (telling or lines or [""])[0].strip()


def _mebibytes(memory_limit: str) -> int:
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", memory_limit)
    unit = found[2].upper() if found else ""
    if found is None or unit not in _MEBIBYTES:
        raise UserError(f"data.memory_limit={memory_limit}: is no size; write for example 4GB")
    return max(_LEAST_MEBIBYTES, int(float(found[1]) * _MEBIBYTES[unit]))


def _end(context: SparkContext) -> None:
    """Stop Spark and its Java machine, whose memory a training that follows may need."""
    gateway = SparkContext._gateway
    # It may have died before: that is the error to tell of.
    with suppress(Py4JError, ConnectionError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unable to cleanly shutdown Spark JVM process")
        context.stop()
        gateway.shutdown()
    if gateway.proc is not None:
        gateway.proc.stdin.close()
        gateway.proc.wait()
    # Else the next context would ask the machine that has ended.
    SparkContext._gateway = SparkContext._jvm = None
