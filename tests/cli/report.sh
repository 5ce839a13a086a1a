#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# report.sh POLYAD FIXTURES: a tiny run becomes one HTML file: well-formed, nothing fetched, tasks and numbers in it.
set -u
polyad=$1 model=$2/gguf/tiny_llama.gguf
[ -f "$model" ] || { echo "skipped: $model is not here"; exit 77; }
command -v python3 >/dev/null || { echo "skipped: no python3 to read the report with"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

for i in a b c d e f g h; do
    for task in up 'down & <b>out</b>'; do
        split=train
        [ $i = g ] && split=validation
        [ $i = h ] && split=test
        echo "{\"task\": \"$task\", \"category\": \"moves\", \"instruction\": \"Say it.\", \"input\": \"$i \\\"<script>\\\"\", \"output\": \"up\", \"split\": \"$split\"}"
    done
done >tasks.jsonl

fail() { echo "$*"; exit 1; }
code() { "$@" >out.txt 2>&1; echo $?; }
for method in cpoly molora; do
    "$polyad" train --model "$model" --precision fp32 --tasks tasks.jsonl --method $method --rank 2 --prompt plain \
        --batch-size 4 --max-steps 6 --run $method --quiet || fail "train --run failed"
    "$polyad" report $method --quiet || fail "a run without scores has no report"
    "$polyad" eval --run $method --baseline --max-tokens 4 --quiet >/dev/null || fail "eval --run failed"
    "$polyad" report $method --title 'a <title> & more' --quiet || fail "report failed"
    python3 - $method <<'PYTHON' || fail "the report of $method is wrong"
import json, re, sys
import xml.etree.ElementTree as tree

run = sys.argv[1]
page = open(f"{run}/report.html", encoding="utf-8").read()
assert page.startswith("<!DOCTYPE html>\n")
root = tree.fromstring(page.split("\n", 1)[1])  # fails on anything that is not well-formed
for element in root.iter():
    for name, value in element.attrib.items():
        assert name not in ("src", "href", "srcset", "action") and not name.startswith("on"), (element.tag, name)
    assert element.tag not in ("link", "img", "iframe", "object", "embed", "base"), element.tag
assert not re.search(r"https?:|//[a-z]|@import|url\(", page), "something outside is named"
assert len(root.findall(".//script")) == 1
text = " ".join(root.itertext())
for task in ("up", "down & <b>out</b>"):
    assert task in text, task
assert "a <title> & more" in text
load = lambda name: json.load(open(f"{run}/{name}.json", encoding="utf-8"))
scores, training, routing, config = load("scores"), load("training"), load("routing"), load("config")
for side in ("base", "skills"):
    for task in scores[side]["tasks"].values():
        assert f"{task['rouge_l']:.1f}" in text
assert f"{training['progress']['loss']:.4g}" in text
assert f"{config['parameters']['trainable']:,}" in text
assert f"{routing['overall']['usage']:.3g}" in text
charts = root.findall(".//svg")
assert len(charts) >= 5, len(charts)
lines = [e for e in root.iter() if e.tag == "polyline"]
assert len(lines) >= 4 and all(len(e.get("points").split()) >= 1 for e in lines)
cells = [e for e in root.iter("td") if e.get("title", "").startswith("up, ")]
groups = routing["groups"]
assert len(cells) == len(groups) * routing["skills"]
for cell, want in zip(cells, [w for g in groups for w in g["weights"][[t["name"] for t in routing["tasks"]].index("up")]]):
    assert abs(float(cell.get("title").rsplit(": ", 1)[1]) - want) <= 0.006 * max(1, abs(want)), (cell.get("title"), want)
if run == "molora":
    assert "Rows that use each skill most" in text and '"<script>"' in text
PYTHON
done
[ "$(ls cpoly | tr '\n' ' ')" = "config.json report.html routing.json scores.json skills.polyad training.json " ] ||
    fail "the run holds $(ls cpoly)"
[ "$(code "$polyad" report nosuch)" = 3 ] || fail "a missing run: $(cat out.txt)"
echo '[' >cpoly/routing.json
[ "$(code "$polyad" report cpoly)" = 4 ] || fail "a damaged run: $(cat out.txt)"
[ "$(code "$polyad" eval)" = 2 ] || fail "eval without a model: $(cat out.txt)"
[ "$(code "$polyad" train --model "$model" --tasks tasks.jsonl)" = 2 ] || fail "train without a place to save: $(cat out.txt)"
echo "report: all good"
