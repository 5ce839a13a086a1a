// SPDX-License-Identifier: Apache-2.0

//go:build polyad_link

package native

/*
#cgo pkg-config: polyad
#cgo CFLAGS: -DPOLYAD_GO_LINKED
*/
import "C"

// Linked tells that the program is linked to the shared library.
const Linked = true
