// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"polyad.dev/polyad/internal/native"
)

// LibraryVariable is the environment variable that names the shared library, or a folder that holds it.
const LibraryVariable = "POLYAD_LIBRARY"

var library struct {
	sync.Mutex
	ready   bool
	failure error
}

// Load loads the shared library from a path (the file, or a folder that holds it) instead of looking for it. Without it, the first use
// looks by the rule of all bindings: the path given here, else the environment variable POLYAD_LIBRARY, else the library bundled with the
// program (beside the executable, or in ../lib), else the system's search path. A place that was named is the only one tried. The
// error lists every place and why it failed; it wraps ErrLibrary. Once the library is loaded, Load refuses.
func Load(path string) error {
	library.Lock()
	defer library.Unlock()
	if library.ready {
		return fmt.Errorf("%w: it is loaded already", ErrLibrary)
	}
	return loadFrom(path)
}

// ready loads the library at the first use; a failure stays until Load names another place.
func ready() error {
	library.Lock()
	defer library.Unlock()
	if library.ready || library.failure != nil {
		return library.failure
	}
	return loadFrom("")
}

func loadFrom(explicit string) error {
	library.failure = nil
	if native.Linked {
		library.failure = checkVersion()
	} else {
		library.failure = find(explicit)
	}
	library.ready = library.failure == nil
	return library.failure
}

func find(explicit string) error {
	var tried []string
	attempt := func(what, path string) bool {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, native.LibraryName)
		}
		reason := native.Open(path)
		if reason == "" {
			return true
		}
		tried = append(tried, what+": "+reason+otherProcessor(path))
		return false
	}
	found := false
	if explicit != "" {
		found = attempt("path given to polyad.Load", explicit)
	} else if named := os.Getenv(LibraryVariable); named != "" {
		found = attempt("environment variable "+LibraryVariable, named)
	} else {
		tried = append(tried, "path given to polyad.Load: none", "environment variable "+LibraryVariable+": not set")
		if executable, err := os.Executable(); err != nil {
			tried = append(tried, "bundled: "+err.Error())
		} else {
			folder := filepath.Dir(executable)
			found = attempt("bundled", filepath.Join(folder, native.LibraryName)) ||
				attempt("bundled", filepath.Join(folder, "..", "lib", native.LibraryName))
		}
		found = found || attempt("system", native.LibraryName)
	}
	if !found {
		return fmt.Errorf("%w; tried\n  %s", ErrLibrary, strings.Join(tried, "\n  "))
	}
	return checkVersion()
}

// otherProcessor says what the loader of glibc does not: that a file which is there is for another processor.
func otherProcessor(path string) string {
	library, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer library.Close()
	own, err := elf.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer own.Close()
	if library.Machine == own.Machine && library.Class == own.Class {
		return ""
	}
	return fmt.Sprintf(" (it is for %v, this program for %v)", library.Machine, own.Machine)
}

// checkVersion refuses a library these bindings were not made for.
func checkVersion() error {
	have, want := native.Polyad_version(), native.Polyad_binding_version()
	// Before 1.0 a minor version may change what exists; from then on only a major one.
	unit := 1000
	if want >= 1000000 {
		unit = 1000000
	}
	if have/unit == want/unit && have >= want {
		if missing := native.Missing(); missing != "" {
			return fmt.Errorf("%w: version %s of it lacks %s", ErrLibrary, versionText(have), missing)
		}
		return nil
	}
	return fmt.Errorf("%w: it is Polyad %s, but these bindings were made for %s: install matching versions of both", ErrLibrary,
		versionText(have), versionText(want))
}

func versionText(number int) string {
	return fmt.Sprintf("%d.%d.%d", number/1000000, number/1000%1000, number%1000)
}

// Version is the shared library's version, "0.1.0".
func Version() (string, error) {
	if err := ready(); err != nil {
		return "", err
	}
	return native.Polyad_version_string(), nil
}

// BuildInfo is JSON: version, LibTorch, compiler, CPU features in use, CUDA.
func BuildInfo() (string, error) {
	if err := ready(); err != nil {
		return "", err
	}
	return native.Polyad_build_info(), nil
}

// HasFeature tells whether the shared library has a named feature: "bf16", "cuda", "method:cpoly", "family:llama".
func HasFeature(name string) (bool, error) {
	if err := ready(); err != nil {
		return false, err
	}
	name, err := checked("feature", name)
	if err != nil {
		return false, err
	}
	return native.Polyad_has_feature(name) != 0, nil
}

// Devices lists what RuntimeOptions.Device may name here, as JSON: names, memory, and why there is no CUDA device where there is none.
func Devices() (string, error) {
	if err := ready(); err != nil {
		return "", err
	}
	var out uintptr
	if err := check(native.Polyad_devices(&out)); err != nil {
		return "", err
	}
	return takeText(out), nil
}
