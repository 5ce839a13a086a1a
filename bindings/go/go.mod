module polyad.dev/polyad

go 1.19
