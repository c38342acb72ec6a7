package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// largest is the size that a binary may have.
const largest = 25 << 20

// TestDist checks a release that .ci/release made: what is in its binaries, archives,
// checksums, SBOMs and images.
func TestDist(t *testing.T) {
	dist := os.Getenv("CMKEEPER_DIST")
	if dist == "" {
		t.Skip("CMKEEPER_DIST names no release")
	}
	var about struct{ Version, Commit string }
	decode(t, filepath.Join(dist, "metadata.json"), &about)
	sums := map[string]string{}
	for line := range strings.Lines(string(read(t, filepath.Join(dist, "SHA256SUMS")))) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[name] = sum
	}
	images := map[string][]byte{}
	for _, platform := range []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64"} {
		t.Run(platform, func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(dist, "cmkeeper_"+platform+"_*", "cmkeeper"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			binary := read(t, files[0])
			if arch, ok := strings.CutPrefix(platform, "linux_"); ok {
				images[arch] = binary
			}
			info, err := buildinfo.Read(bytes.NewReader(binary))
			if err != nil {
				t.Fatal(err)
			}
			checkBinary(t, binary, info, about.Commit)
			name := "cmkeeper_" + about.Version + "_" + platform
			for _, file := range []string{name + ".tar.gz", name + ".cdx.json"} {
				sum := sha256.Sum256(read(t, filepath.Join(dist, file)))
				if sums[file] != hex.EncodeToString(sum[:]) {
					t.Errorf("SHA256SUMS has %q for %s", sums[file], file)
				}
				delete(sums, file)
			}
			checkArchive(t, filepath.Join(dist, name+".tar.gz"), binary)
			checkSBOM(t, filepath.Join(dist, name+".cdx.json"), about.Version, info)
		})
	}
	if len(sums) > 0 {
		t.Errorf("SHA256SUMS has also %v", slices.Sorted(maps.Keys(sums)))
	}
	checkImages(t, filepath.Join(dist, "image"), images)
}

func checkBinary(t *testing.T, binary []byte, info *debug.BuildInfo, commit string) {
	t.Helper()
	if len(binary) > largest {
		t.Errorf("%d bytes, and %d are allowed", len(binary), largest)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	for key, want := range map[string]string{"vcs.revision": commit, "vcs.modified": "false", "CGO_ENABLED": "0", "-trimpath": "true"} {
		if settings[key] != want {
			t.Errorf("%s is %q, not %q", key, settings[key], want)
		}
	}
	t.Logf("%d bytes, %s, %s", len(binary), info.Main.Version, info.GoVersion)
}

func checkArchive(t *testing.T, file string, binary []byte) {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if names := slices.Sorted(maps.Keys(files)); !slices.Equal(names, []string{"LICENSE", "README.md", "cmkeeper"}) || !bytes.Equal(files["cmkeeper"], binary) {
		t.Errorf("%s has %v, or another binary", file, names)
	}
}

// checkSBOM wants every module that is in the binary in its SBOM, with the sum that go.sum
// has of it, and nothing else but Go's own library.
func checkSBOM(t *testing.T, file, version string, info *debug.BuildInfo) {
	t.Helper()
	type component struct {
		Name, Version string
		Hashes        []struct{ Alg, Content string }
	}
	var sbom struct {
		BomFormat  string
		Metadata   struct{ Component component }
		Components []component
	}
	decode(t, file, &sbom)
	if c := sbom.Metadata.Component; sbom.BomFormat != "CycloneDX" || c.Name != info.Main.Path || c.Version != "v"+version {
		t.Errorf("%s is of %s %s", sbom.BomFormat, c.Name, c.Version)
	}
	want := []string{"std " + info.GoVersion + " "}
	for _, m := range info.Deps {
		want = append(want, fmt.Sprintf("%s %s %s", m.Path, m.Version, m.Sum))
	}
	locked := string(read(t, filepath.Join("..", "go.sum")))
	var got []string
	for _, c := range sbom.Components {
		sum := ""
		for _, h := range c.Hashes {
			if raw, err := hex.DecodeString(h.Content); err == nil && h.Alg == "SHA-256" {
				sum = "h1:" + base64.StdEncoding.EncodeToString(raw)
			}
		}
		line := fmt.Sprintf("%s %s %s", c.Name, c.Version, sum)
		got = append(got, line)
		if c.Name != "std" && !strings.Contains(locked, line+"\n") {
			t.Errorf("go.sum has not %s", line)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the SBOM has\n%s\nand the binary\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	t.Logf("%d components", len(got))
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decode(t *testing.T, file string, v any) {
	t.Helper()
	if err := json.Unmarshal(read(t, file), v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
