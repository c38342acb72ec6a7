// Command cmkeeper keeps customer managed KMS keys compliant: it reacts to KMS
// events, repairs what it may repair, tells people what happened and moves S3
// data onto the new key when an alias moves.
package main

import (
	"os"

	"github.com/cmkeeper/cmkeeper/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
