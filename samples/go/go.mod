module polyad.dev/samples

go 1.19

require polyad.dev/polyad v0.0.0

// The module as CMake's target polyad_go puts it together; packages come with it as a folder too.
replace polyad.dev/polyad => ../../build/release/bindings/go/polyad
