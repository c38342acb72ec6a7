package cli

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by release builds: -ldflags "-X github.com/cmkeeper/cmkeeper/internal/cli.version=v1.2.3".
var version = ""

func newVersionCommand(p *process) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: p.action(func(_ context.Context, p *process) error {
			_, err := fmt.Fprintln(p.stdout, versionString())
			return err
		}),
	}
}

// versionString returns "cmkeeper v1.2.3 (commit, go1.26.0)", as far as the build knows.
func versionString() string {
	v, commit, goVersion := version, "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value[:min(len(s.Value), 12)] + ", "
			}
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return fmt.Sprintf("cmkeeper %s (%s%s)", v, commit, goVersion)
}
