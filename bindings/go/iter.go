// SPDX-License-Identifier: Apache-2.0

//go:build go1.23

package polyad

import "iter"

// All ranges over the pieces of the text as they are made, from the beginning; Err tells afterwards whether all of it came.
func (a *Answer) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := 0; ; i++ {
			piece, more := a.Next(i)
			if !more || !yield(piece) {
				return
			}
		}
	}
}
