package cli

import (
	"bytes"
	"encoding/json"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDescribe(t *testing.T) {
	setting := func(pairs ...string) (all []debug.BuildSetting) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, debug.BuildSetting{Key: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	tests := map[string]struct {
		set  string
		info debug.BuildInfo
		want origin
	}{
		"a build of a tagged commit": {
			info: debug.BuildInfo{
				GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"},
				Settings: setting("vcs", "git", "vcs.revision", "0123abcd", "vcs.time", "2026-11-30T10:00:00Z", "vcs.modified", "false"),
			},
			want: origin{Version: "v1.2.3", Commit: "0123abcd", Date: "2026-11-30T10:00:00Z", Go: "go1.26.8"},
		},
		"a build of changed files": {
			info: debug.BuildInfo{Main: debug.Module{Version: "v1.2.4-0.2026+dirty"}, Settings: setting("vcs.modified", "true")},
			want: origin{Version: "v1.2.4-0.2026+dirty", Modified: true},
		},
		"go install of a version": {
			info: debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"}},
			want: origin{Version: "v1.2.3", Go: "go1.26.8"},
		},
		"the Dockerfile, which sees no repository": {
			set:  "v1.2.3",
			info: debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}},
			want: origin{Version: "v1.2.3", Go: "go1.26.8"},
		},
		"nothing is known": {want: origin{Version: "(devel)"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, describe(tt.set, &tt.info)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestVersionAsJSON(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"version", "--json"}, nil, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var got origin
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if got.Version == "" || got.Go != runtime.Version() || got.Platform != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("%+v", got)
	}
}

// TestCompletion holds what the README says: cobra's completion is reachable, and
// completes commands and flags.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"completion", shell}, nil, &out, &out); code != exitOK || !strings.Contains(out.String(), "cmkeeper") {
			t.Errorf("%s: exit code %d, %d bytes", shell, code, out.Len())
		}
	}
	for _, tt := range [][]string{{"poli", "policy"}, {"policy", "check", "--sa", "--sarif"}} {
		var out bytes.Buffer
		args := append([]string{"__complete"}, tt[:len(tt)-1]...)
		if code := run(t.Context(), args, nil, &out, &bytes.Buffer{}); code != exitOK || !strings.Contains(out.String(), tt[len(tt)-1]) {
			t.Errorf("%q: exit code %d: %s", args, code, out.String())
		}
	}
}
