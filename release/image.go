// Command release writes the container image of a release as an OCI image layout,
// one image for each platform and an index over them. The same binaries give the
// same digests, on every machine.
//
//	release -version v1.2.3 -commit SHA -date 2026-01-02T03:04:05Z -license LICENSE -out dist/image \
//	  linux/amd64=dist/cmkeeper_linux_amd64_v1/cmkeeper linux/arm64=…
//
// It prints the digest of the index.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what all its images have in common.
type release struct {
	version, commit string
	date            time.Time
	license         []byte
}

func run(args []string, stdout io.Writer) error {
	var r release
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&r.version, "version", "", "the version")
	flags.StringVar(&r.commit, "commit", "", "the commit")
	date := flags.String("date", "", "the commit's date, RFC 3339")
	license := flags.String("license", "", "the file with the license")
	out := flags.String("out", "", "the directory of the layout, which must not exist")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if r.date, err = time.Parse(time.RFC3339, *date); err != nil {
		return fmt.Errorf("-date: %w", err)
	}
	r.date = r.date.UTC()
	if r.license, err = os.ReadFile(*license); err != nil {
		return fmt.Errorf("-license: %w", err)
	}
	if _, err := os.Stat(*out); err == nil {
		return fmt.Errorf("-out: %s exists", *out)
	}
	index, err := r.index(flags.Args())
	if err != nil {
		return err
	}
	if _, err := layout.Write(*out, index); err != nil {
		return fmt.Errorf("write the layout: %w", err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, digest)
	return err
}

// index returns the index over the images of binaries, each as PLATFORM=FILE.
func (r release) index(binaries []string) (v1.ImageIndex, error) {
	if len(binaries) == 0 {
		return nil, fmt.Errorf("no binaries")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range binaries {
		name, file, ok := strings.Cut(b, "=")
		if !ok {
			return nil, fmt.Errorf("%s is not PLATFORM=FILE", b)
		}
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return nil, err
		}
		binary, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		image, err := r.image(*platform, binary)
		if err != nil {
			return nil, fmt.Errorf("image of %s: %w", name, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index, nil
}

// image returns the image of a binary. It says what the Dockerfile says.
func (r release) image(platform v1.Platform, binary []byte) (v1.Image, error) {
	content, err := r.layer(binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(base, mutate.Addendum{
		Layer: layer, History: v1.History{Created: v1.Time{Time: r.date}, CreatedBy: "cmkeeper/release"},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: r.date}
	config.Config = v1.Config{
		User: "65532:65532", WorkingDir: "/", StopSignal: "SIGTERM",
		Env:          []string{"CMKEEPER_HTTP_ADDR=:8080"}, // where the health check asks
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Entrypoint:   []string{"/cmkeeper"}, Cmd: []string{"worker"},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", "/cmkeeper", "health"},
			Interval: 15 * time.Second, Timeout: 5 * time.Second, StartPeriod: 20 * time.Second, Retries: 3,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "cmkeeper",
			"org.opencontainers.image.source":   "https://github.com/cmkeeper/cmkeeper",
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.revision": r.commit,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(image, config)
}

// layer returns the only layer: the binary, the license, and the roots that TLS
// trusts. All files are root's, and as old as the commit.
func (r release) layer(binary []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true}
	add := func(h tar.Header, content []byte) error {
		h.ModTime, h.Size, h.Format = r.date, int64(len(content)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	for _, file := range []struct {
		name    string
		mode    fs.FileMode
		content []byte
	}{
		{"etc/ssl/certs/ca-certificates.crt", 0o644, roots()},
		{"LICENSE", 0o644, r.license},
		{"cmkeeper", 0o755, binary},
	} {
		above := ""
		for part := range strings.SplitSeq(path.Dir(file.name), "/") {
			above = path.Join(above, part)
			if made[above] {
				continue
			}
			made[above] = true
			if err := add(tar.Header{Typeflag: tar.TypeDir, Name: above + "/", Mode: 0o755}, nil); err != nil {
				return nil, err
			}
		}
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: int64(file.mode)}, file.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// roots returns Mozilla's roots as PEM. Those that are trusted for older certificates
// only are left out, since a file cannot say so.
func roots() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // into memory
		}
	}
	return b.Bytes()
}
