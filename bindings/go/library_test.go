// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A library is loaded once per process, so each case is a process of its own that prints what it got.
func runProbe(probe string) int {
	var err error
	switch {
	case strings.HasPrefix(probe, "load "):
		err = Load(strings.TrimPrefix(probe, "load "))
	case probe == "use":
		_, err = Version()
	case probe == "late":
		if _, err = Version(); err == nil {
			err = Load("elsewhere")
		}
	}
	if err == nil {
		version, _ := Version()
		fmt.Println("loaded " + version)
		return 0
	}
	fmt.Println(err)
	if !errors.Is(err, ErrLibrary) {
		fmt.Println("but it is no ErrLibrary")
	}
	if _, again := Version(); again == nil && probe != "late" {
		fmt.Println("but a second use worked")
	}
	return 1
}

func probe(t *testing.T, what, library string) string {
	t.Helper()
	command := exec.Command(os.Args[0])
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, LibraryVariable+"=") && !strings.HasPrefix(entry, "LD_LIBRARY_PATH=") {
			command.Env = append(command.Env, entry)
		}
	}
	command.Env = append(command.Env, "POLYAD_TEST_PROBE="+what)
	if library != "" {
		command.Env = append(command.Env, LibraryVariable+"="+library)
	}
	out, _ := command.CombinedOutput()
	if strings.Contains(string(out), "but ") && strings.Contains(string(out), "\nbut ") {
		t.Errorf("%s", out)
	}
	return string(out)
}

func expectOutput(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("%q is not in:\n%s", word, out)
		}
	}
}

func TestLibraryIsFoundByOneRule(t *testing.T) {
	library := os.Getenv(LibraryVariable)
	if library == "" {
		t.Skip("skipped: " + LibraryVariable + " names no library")
	}
	expectOutput(t, probe(t, "use", library), "loaded 0.")
	expectOutput(t, probe(t, "load "+library, "nowhere"), "loaded 0.") // the path in code comes first
	expectOutput(t, probe(t, "late", library), "loaded already")
	expectOutput(t, probe(t, "use", ""), "path given to polyad.Load: none", "POLYAD_LIBRARY: not set", "bundled:", "system:")
	expectOutput(t, probe(t, "use", "/nowhere/libpolyad.so"), "environment variable POLYAD_LIBRARY", "/nowhere/libpolyad.so")
	expectOutput(t, probe(t, "load /nowhere", library), "path given to polyad.Load", "/nowhere")

	folder := t.TempDir()
	foreign := filepath.Join(folder, "foreign.so")
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	right := self[18]                      // e_machine
	if self[18] = 183; right == self[18] { // AArch64
		self[18] = 62
	}
	must(t, os.WriteFile(foreign, self, 0o755))
	expectOutput(t, probe(t, "use", foreign), foreign, "it is for EM_", "this program for EM_")
	must(t, os.WriteFile(foreign, []byte(strings.Repeat("no library", 100)), 0o755))
	expectOutput(t, probe(t, "use", foreign), foreign, "ELF")

	if compiler, err := exec.LookPath("cc"); err == nil { // one that needs a library which is not there
		source := filepath.Join(folder, "needs.c")
		must(t, os.WriteFile(source, []byte("int polyad_missing_part(void) { return 1; }\n"), 0o644))
		part, needs := filepath.Join(folder, "libpart.so"), filepath.Join(folder, "needs.so")
		must(t, exec.Command(compiler, "-shared", "-o", part, source).Run())
		must(t, exec.Command(compiler, "-shared", "-Wl,--no-as-needed", "-o", needs, source, part).Run())
		must(t, os.Remove(part))
		expectOutput(t, probe(t, "use", needs), "libpart.so")
	}
	if old := os.Getenv("POLYAD_TEST_OLD"); old != "" {
		expectOutput(t, probe(t, "use", old), "0.0.9", "0.1.0")
	}
}
