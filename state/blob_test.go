package state

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// zeros reads as n bytes of zero.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestBlob(t *testing.T) {
	b := newBucket(t)
	s := b.store()
	for _, size := range []int64{0, 1, 100_000, partSize - 1, partSize, 2*partSize + 5} {
		body := bytes.Repeat([]byte("0123456789\n"), int(size)/11+1)[:size]
		address, err := s.PutBlob(t.Context(), "jobs/j/report.csv", "text/csv", iotest.DataErrReader(bytes.NewReader(body)))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if address != "s3://state/cmkeeper/jobs/j/report.csv" {
			t.Errorf("the address is %s", address)
		}
		r, err := s.GetBlob(t.Context(), "jobs/j/report.csv")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes became %d others: %v", size, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err := s.GetBlob(t.Context(), "jobs/j/none")
	is(t, "get what is not there", err, ErrNotFound)
	out, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("state"), Key: aws.String("cmkeeper/jobs/j/report.csv")})
	if err != nil || aws.ToString(out.ContentType) != "text/csv" {
		t.Errorf("content type %q, %v", aws.ToString(out.ContentType), err)
	}
}

func TestBlobOfABrokenReader(t *testing.T) {
	b := newBucket(t)
	s := b.store()
	b.write(t, "report", "as it was")
	for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF} {
		for _, size := range []int64{0, partSize + 10} {
			body := io.MultiReader(zeros(size), iotest.ErrReader(broken))
			_, err := s.PutBlob(t.Context(), "report", "text/plain", body)
			is(t, "put", err, broken)
			if got := b.read(t, "report"); got != "as it was" {
				t.Errorf("%v after %d bytes: the blob has %d bytes now", broken, size, len(got))
			}
		}
	}
	uploads, err := b.client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String("state")})
	if err != nil {
		t.Fatal(err)
	}
	if len(uploads.Uploads) > 0 {
		t.Errorf("%d uploads are left behind", len(uploads.Uploads))
	}
}

func TestKeysListsBlobs(t *testing.T) {
	s := newBucket(t).store()
	if _, err := s.PutBlob(t.Context(), "a/report", "text/plain", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for key, err := range s.Keys(t.Context(), "a/") {
		if err != nil || key != "a/report" {
			t.Errorf("got %q, %v", key, err)
		}
	}
}

func TestSmallBlobTakesLittleMemory(t *testing.T) {
	part, err := fill(nil, zeros(1000))
	if err != nil || len(part) != 1000 || cap(part) > 64<<10 {
		t.Errorf("1,000 bytes are read into %d of %d bytes: %v", len(part), cap(part), err)
	}
}
