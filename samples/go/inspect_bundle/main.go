// SPDX-License-Identifier: Apache-2.0

// Command inspect_bundle shows what a bundle holds, without its base model.
package main

import (
	"fmt"
	"os"

	"polyad.dev/polyad"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: inspect_bundle BUNDLE.polyad")
		os.Exit(2)
	}
	json, err := polyad.InspectBundle(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(json))
}
