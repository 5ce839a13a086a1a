#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adds up CTest's and GoogleTest's reports: summarise_tests.py FOLDER, where FOLDER/*/ctest.xml and FOLDER/*/gtest/*.xml.

A GoogleTest program that left its report counts case by case; any other CTest entry counts as one. Prints every skipped
test with its reason, every failure, and last "N passed, N failed, N skipped".
"""
import pathlib
import sys
import xml.etree.ElementTree as xml


def one_line(text):
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return " ".join(lines) or "no reason given"


def googletest_cases(report):
    for case in xml.parse(report).iter("testcase"):
        name = f"{report.stem}: {case.get('classname')}.{case.get('name')}"
        skipped, failure = case.find("skipped"), case.find("failure")
        if failure is not None:
            yield name, "failed", one_line(failure.get("message"))
        elif skipped is not None or case.get("result") == "skipped":
            # The message begins with the place, then GTEST_SKIP's text.
            reason = skipped.get("message") if skipped is not None else ""
            yield name, "skipped", one_line(reason.split("\n", 1)[-1])
        elif case.get("status") == "notrun":
            yield name, "skipped", "disabled"
        else:
            yield name, "passed", ""


def ctest_entries(report, own_reports):
    for case in xml.parse(report).iter("testcase"):
        name, status = case.get("name"), case.get("status")
        if status == "run":
            if name not in own_reports:
                yield name, "passed", ""
        elif status == "fail":
            # Its cases are counted where it left a report with a failed one; a crash leaves none.
            if own_reports.get(name, 0) == 0:
                yield name, "failed", one_line("\n".join((case.findtext("system-out") or "").splitlines()[-3:]))
        else:
            skipped = case.find("skipped")
            reason = one_line(case.findtext("system-out"))
            if "skip" not in reason and skipped is not None and skipped.get("message"):
                reason = skipped.get("message")
            yield name, "skipped", reason


def main():
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    notes = []
    for report in sorted(pathlib.Path(sys.argv[1]).glob("*/ctest.xml")):
        own_reports = {}
        results = []
        for file in sorted((report.parent / "gtest").glob("*.xml")):
            cases = list(googletest_cases(file))
            own_reports[file.stem] = sum(kind == "failed" for _, kind, _ in cases)
            results += cases
        results += ctest_entries(report, own_reports)
        for name, kind, why in results:
            counts[kind] += 1
            if kind != "passed":
                notes.append((kind, f"{report.parent.name}: {name}: {why[:300]}"))
    for kind in ("skipped", "failed"):
        for note_kind, text in notes:
            if note_kind == kind:
                print(f"{kind}: {text}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    sys.exit(1 if counts["failed"] or not counts["passed"] else 0)


if __name__ == "__main__":
    main()
