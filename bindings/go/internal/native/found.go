// SPDX-License-Identifier: Apache-2.0

//go:build !polyad_link

package native

/*
#cgo linux LDFLAGS: -ldl
*/
import "C"

// Linked tells that the program is linked to the shared library.
const Linked = false
