package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set where a build sees no repository, as in the Dockerfile:
// -ldflags "-X github.com/cmkeeper/cmkeeper/internal/cli.version=v1.2.3".
// All other builds know their version from the repository or the module.
var version = ""

// origin is what a binary knows about its origin. What it does not know is empty.
type origin struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"`     // of the commit, RFC 3339: two builds of a commit are equal
	Modified bool   `json:"modified,omitempty"` // the files were not those of the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCommand(p *process) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: p.action(func(_ context.Context, p *process) error {
			if asJSON {
				return printJSON(p.stdout, thisBuild())
			}
			_, err := fmt.Fprintln(p.stdout, versionString())
			return err
		}),
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object with version, commit, its date, Go's version and the platform")
	return command
}

// versionString returns "cmkeeper v1.2.3 (commit, go1.26.0)", as far as the build knows.
func versionString() string {
	b := thisBuild()
	commit := ""
	if b.Commit != "" {
		commit = b.Commit[:min(len(b.Commit), 12)] + ", "
	}
	return fmt.Sprintf("cmkeeper %s (%s%s)", b.Version, commit, b.Go)
}

func thisBuild() origin {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{GoVersion: runtime.Version()}
	}
	b := describe(version, info)
	b.Platform = runtime.GOOS + "/" + runtime.GOARCH
	return b
}

// describe returns what a build's information says. A version that was set goes
// before the one that Go knows.
func describe(version string, info *debug.BuildInfo) origin {
	b := origin{Version: version, Go: info.GoVersion}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
