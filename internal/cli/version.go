package cli

import (
	"fmt"
	"runtime/debug"
)

// version is set by release builds: -ldflags "-X github.com/cmkeeper/cmkeeper/internal/cli.version=v1.2.3".
var version = ""

type versionCommand struct{}

func (versionCommand) Run(p *process) error {
	_, err := fmt.Fprintln(p.stdout, versionString())
	return err
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
