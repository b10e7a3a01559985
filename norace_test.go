//go:build !race

package argyle

const raced = false
