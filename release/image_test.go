package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// build makes the images of two binaries, and returns the layout and the index's digest.
func build(t *testing.T, amd64, date string) (dir, digest string) {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{"amd64": amd64, "arm64": "an arm64 binary", "LICENSE": "a license"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(root, "image")
	var out bytes.Buffer
	err := run([]string{
		"-version", "v1.2.3", "-commit", "0123abcd", "-date", date, "-license", filepath.Join(root, "LICENSE"), "-out", dir,
		"linux/amd64=" + filepath.Join(root, "amd64"), "linux/arm64=" + filepath.Join(root, "arm64"),
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	return dir, strings.TrimSpace(out.String())
}

func TestImagesAreReproducible(t *testing.T) {
	dir, first := build(t, "a binary", "2026-01-02T03:04:05+02:00")
	if _, again := build(t, "a binary", "2026-01-02T01:04:05Z"); again != first {
		t.Errorf("two builds are %s and %s", first, again)
	}
	if _, other := build(t, "another binary", "2026-01-02T01:04:05Z"); other == first {
		t.Error("another binary has the same digest")
	}
	checkImages(t, dir, map[string][]byte{"amd64": []byte("a binary"), "arm64": []byte("an arm64 binary")})
}

func TestWrongArguments(t *testing.T) {
	dir, _ := build(t, "a binary", "2026-01-02T03:04:05Z")
	license := filepath.Join(filepath.Dir(dir), "LICENSE")
	for name, args := range map[string][]string{
		"no date":              {"-license", license, "-out", dir + "2", "linux/amd64=" + license},
		"no license":           {"-date", "2026-01-02T03:04:05Z", "-out", dir + "2", "linux/amd64=" + license},
		"no binaries":          {"-date", "2026-01-02T03:04:05Z", "-license", license, "-out", dir + "2"},
		"a binary that is not": {"-date", "2026-01-02T03:04:05Z", "-license", license, "-out", dir + "2", "linux/amd64=nowhere"},
		"a layout that exists": {"-date", "2026-01-02T03:04:05Z", "-license", license, "-out", dir, "linux/amd64=" + license},
	} {
		if err := run(args, io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestImageSaysWhatTheDockerfileSays: people who build their own image get the same.
func TestImageSaysWhatTheDockerfileSays(t *testing.T) {
	image, err := release{}.image(v1.Platform{OS: "linux", Architecture: "amd64"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c, h := config.Config, config.Config.Healthcheck
	list := func(words []string) string { return `["` + strings.Join(words, `", "`) + `"]` }
	dockerfile := string(read(t, filepath.Join("..", "Dockerfile")))
	_, final, _ := strings.Cut(dockerfile, "FROM ${BASE_IMAGE}")
	for _, line := range []string{
		"USER " + c.User, "STOPSIGNAL " + c.StopSignal, "ENTRYPOINT " + list(c.Entrypoint), "CMD " + list(c.Cmd),
		"EXPOSE " + strings.TrimSuffix(slices.Collect(maps.Keys(c.ExposedPorts))[0], "/tcp"),
		fmt.Sprintf("HEALTHCHECK --interval=%v --timeout=%v --start-period=%v --retries=%d CMD %s", h.Interval, h.Timeout, h.StartPeriod, h.Retries, list(h.Test[1:])),
	} {
		if !strings.Contains(final, "\n"+line+"\n") {
			t.Errorf("the Dockerfile does not say %s", line)
		}
	}
	for line := range strings.Lines(final) {
		if env, ok := strings.CutPrefix(strings.TrimSpace(line), "ENV "); ok && !slices.Contains(c.Env, env) {
			t.Errorf("the image has not %s, which the Dockerfile sets", env)
		}
	}
}

// checkImages wants, for each architecture, an image with its binary, the license, roots
// and nothing else, that runs as nobody in particular.
func checkImages(t *testing.T, dir string, binaries map[string][]byte) {
	t.Helper()
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range manifest.Manifests {
		found = append(found, m.Platform.Architecture)
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, *m.Platform, binaries[m.Platform.Architecture])
	}
	if slices.Sort(found); !slices.Equal(found, []string{"amd64", "arm64"}) {
		t.Errorf("images for %v", found)
	}
}

func checkImage(t *testing.T, image v1.Image, platform v1.Platform, binary []byte) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.OS != "linux" || config.Architecture != platform.Architecture || c.User != "65532:65532" || c.StopSignal != "SIGTERM" ||
		!slices.Equal(c.Entrypoint, []string{"/cmkeeper"}) || !slices.Equal(c.Cmd, []string{"worker"}) {
		t.Errorf("%v: the configuration is %+v", platform, config)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	files := map[string][]byte{}
	var names []string
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode&0o022 != 0 || h.Uid != 0 {
			t.Errorf("%s has mode %o and owner %d", h.Name, h.Mode, h.Uid)
		}
		names = append(names, h.Name)
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"etc/", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt", "LICENSE", "cmkeeper"}
	if !slices.Equal(names, want) {
		t.Errorf("the image has %v", names)
	}
	if !bytes.Equal(files["cmkeeper"], binary) {
		t.Errorf("the image of %v has another binary: %d bytes, and %d are wanted", platform, len(files["cmkeeper"]), len(binary))
	}
	checkRoots(t, files["etc/ssl/certs/ca-certificates.crt"])
}

func checkRoots(t *testing.T, text []byte) {
	t.Helper()
	var names []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, certificate.Subject.CommonName)
	}
	for _, name := range []string{"Amazon Root CA 1", "Amazon Root CA 4", "Starfield Services Root Certificate Authority - G2"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s, which AWS's endpoints use, is not among the %d roots", name, len(names))
		}
	}
}
