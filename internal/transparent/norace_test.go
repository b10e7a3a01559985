//go:build !race

package transparent

const raced = false
