// SPDX-License-Identifier: Apache-2.0

// Package native is what SWIG makes of polyad.h (bindings/polyad.i), and how the shared library is found. Internal: use package polyad.
package native

/*
#cgo CFLAGS: -I${SRCDIR}/include -fno-strict-aliasing -Wno-unused-function
#include "library.h"
#include <polyad/polyad.h>
#include <stdlib.h>
*/
import "C"

import (
	"runtime"
	"unsafe"
)

// LibraryName is the shared library's file name here.
var LibraryName = func() string {
	switch runtime.GOOS {
	case "windows":
		return "polyad.dll"
	case "darwin":
		return "libpolyad.dylib"
	}
	return "libpolyad.so.0"
}()

// Open loads the shared library from a path or by its name; "" or why it failed.
func Open(path string) string {
	text := C.CString(path)
	defer C.free(unsafe.Pointer(text))
	reason := C.polyad_go_open(text)
	if reason == nil {
		return ""
	}
	defer C.free(unsafe.Pointer(reason))
	return C.GoString(reason)
}

// Missing names a function of polyad.h that the loaded library lacks; "" when it has them all.
func Missing() string {
	return C.GoString(C.polyad_go_missing())
}
