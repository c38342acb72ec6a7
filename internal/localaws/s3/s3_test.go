package s3_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/s3"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const account = "000000000000"

// server is a Service over a keyring, as one caller sees it.
type server struct {
	*sdk.Client
	keys    *keyring
	handler http.Handler
}

func newServer(t *testing.T, configure func(*s3.Config), caller wire.Caller) *server {
	t.Helper()
	keys := newKeyring()
	cfg := s3.Config{Account: account, Region: "us-east-1", Keys: keys}
	if configure != nil {
		configure(&cfg)
	}
	service := s3.New(cfg)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service.ServeHTTP(w, r.WithContext(wire.WithRequest(r.Context(), caller, "REQUEST")))
	})
	client := sdk.NewFromConfig(inprocess.Config(handler, "us-east-1", "test"), func(o *sdk.Options) { o.UsePathStyle = true })
	return &server{Client: client, keys: keys, handler: handler}
}

func (s *server) bucket(t *testing.T, name string) string {
	t.Helper()
	if _, err := s.CreateBucket(t.Context(), &sdk.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *server) put(t *testing.T, bucket, key, body string) *sdk.PutObjectOutput {
	t.Helper()
	out, err := s.PutObject(t.Context(), &sdk.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *server) body(ctx context.Context, bucket, key string) (string, error) {
	out, err := s.GetObject(ctx, &sdk.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(out.Body)
	return string(b), errors.Join(err, out.Body.Close())
}

// code returns the error code of err, "" for none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestAuthorization(t *testing.T) {
	allowed := map[string]bool{}
	s := newServer(t, nil, wire.Caller{ARN: "arn:aws:iam::000000000000:user/u", Allowed: func(action, resource string) bool { return allowed[action+" "+resource] }})
	ctx := t.Context()
	bucket, key := aws.String("b-one"), aws.String("k")
	put := func() error {
		_, err := s.PutObject(ctx, &sdk.PutObjectInput{Bucket: bucket, Key: key, Tagging: aws.String("a=b")})
		return err
	}
	for _, step := range []struct {
		action, resource string // without it, denied; with it, not
		do               func() error
		after            string // the code then
	}{
		{"s3:CreateBucket", "arn:aws:s3:::b-one", func() error { _, err := s.CreateBucket(ctx, &sdk.CreateBucketInput{Bucket: bucket}); return err }, ""},
		{"s3:PutObject", "arn:aws:s3:::b-one/k", put, "AccessDenied"},
		{"s3:PutObjectTagging", "arn:aws:s3:::b-one/k", put, ""},
		{"s3:GetObject", "arn:aws:s3:::b-one/k", func() error { _, err := s.body(ctx, "b-one", "k"); return err }, ""},
		{"s3:GetObject", "arn:aws:s3:::b-one/none", func() error { _, err := s.body(ctx, "b-one", "none"); return err }, "AccessDenied"},
		{"s3:ListBucket", "arn:aws:s3:::b-one", func() error { _, err := s.body(ctx, "b-one", "none"); return err }, "NoSuchKey"},
		{"s3:PutObject", "arn:aws:s3:::b-one/copy", func() error {
			_, err := s.CopyObject(ctx, &sdk.CopyObjectInput{Bucket: bucket, Key: aws.String("copy"), CopySource: aws.String("b-one/k")})
			return err
		}, "AccessDenied"}, // the tags are not for the caller
		{"s3:UpdateObjectEncryption", "arn:aws:s3:::b-one/k", func() error { return s.update("b-one", "k", keyA) }, ""},
	} {
		if got := code(step.do()); got != "AccessDenied" {
			t.Errorf("without %s on %s: %q", step.action, step.resource, got)
		}
		allowed[step.action+" "+step.resource] = true
		if got := code(step.do()); got != step.after {
			t.Errorf("with %s on %s: %q, want %q", step.action, step.resource, got, step.after)
		}
	}
	if got := code(s.update("b-one", "copy", keyA)); got != "AccessDenied" {
		t.Errorf("update with PutObject only: %q", got)
	}
}

func (s *server) update(bucket, key, arn string) error {
	_, err := s.UpdateObjectEncryption(context.Background(), &sdk.UpdateObjectEncryptionInput{Bucket: &bucket, Key: &key,
		ObjectEncryption: &types.ObjectEncryptionMemberSSEKMS{Value: types.SSEKMSEncryption{KMSKeyArn: &arn}}})
	return err
}

// TestKeyUse states which calls of KMS each operation makes, and under which
// encryption context.
func TestKeyUse(t *testing.T) {
	s := newServer(t, nil, wire.Caller{})
	ctx := t.Context()
	b := s.bucket(t, "keyed")
	const object, inBucket = `{"aws:s3:arn":"arn:aws:s3:::keyed/k"}`, `{"aws:s3:arn":"arn:aws:s3:::keyed"}`
	put := func(bucketKey bool, extra string) func() error {
		return func() error {
			in := &sdk.PutObjectInput{Bucket: &b, Key: aws.String("k"), Body: strings.NewReader("x"), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: aws.String("alias/app"), BucketKeyEnabled: &bucketKey}
			if extra != "" {
				in.SSEKMSEncryptionContext = aws.String(base64.StdEncoding.EncodeToString([]byte(extra)))
			}
			_, err := s.PutObject(ctx, in)
			return err
		}
	}
	get := func() error { _, err := s.body(ctx, b, "k"); return err }
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"put", put(false, ""), []string{"GenerateDataKey " + object}},
		{"get", get, []string{"Decrypt " + object}},
		{"head", func() error {
			_, err := s.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b, Key: aws.String("k")})
			return err
		}, nil},
		{"copy", func() error {
			_, err := s.CopyObject(ctx, &sdk.CopyObjectInput{Bucket: &b, Key: aws.String("k"), CopySource: aws.String("keyed/k"), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: aws.String(keyB)})
			return err
		}, []string{"Decrypt " + object, "GenerateDataKey " + object}},
		{"update", func() error { return s.update(b, "k", keyA) }, []string{"ReEncrypt " + object}},
		{"put with a context", put(false, `{"team":"a"}`), []string{`GenerateDataKey {"aws:s3:arn":"arn:aws:s3:::keyed/k","team":"a"}`}},
		{"update keeps the context", func() error { return s.update(b, "k", keyB) }, []string{`ReEncrypt {"aws:s3:arn":"arn:aws:s3:::keyed/k","team":"a"}`}},
		{"get with a context", get, []string{`Decrypt {"aws:s3:arn":"arn:aws:s3:::keyed/k","team":"a"}`}},
		{"put with a bucket key", put(true, ""), []string{"GenerateDataKey " + inBucket}},
		{"update drops the bucket key", func() error { return s.update(b, "k", keyB) }, []string{"ReEncrypt " + object}},
		{"get of the updated", get, []string{"Decrypt " + object}},
		{"put under SSE-S3", func() error { s.put(t, b, "k", "x"); return nil }, nil},
		{"get under SSE-S3", get, nil},
		{"update from SSE-S3", func() error { return s.update(b, "k", keyB) }, []string{"GenerateDataKey " + object}},
		{"get after that", get, []string{"Decrypt " + object}},
	} {
		s.keys.calls = nil
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if d := cmp.Diff(step.want, s.keys.calls); d != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, d)
		}
	}
	for arn, want := range map[string]string{"DisabledException": "KMS.DisabledException", "KMSInvalidStateException": "KMS.KMSInvalidStateException", "NotFoundException": "KMS.NotFoundException", "AccessDeniedException": "AccessDenied"} {
		s.keys.breakKey(keyB, arn)
		if got := code(get()); got != want {
			t.Errorf("%s: %q", arn, got)
		}
	}
}

// TestSizeLimits turns the knobs down, so that no test stores five gigabytes.
func TestSizeLimits(t *testing.T) {
	s := newServer(t, func(c *s3.Config) { c.MaxCopySize, c.MinPartSize = 10, 4 }, wire.Caller{})
	ctx := t.Context()
	b := s.bucket(t, "limits")
	s.put(t, b, "ten", "0123456789")
	s.put(t, b, "eleven", "0123456789a")
	for key, want := range map[string]string{"ten": "", "eleven": "InvalidRequest"} {
		_, err := s.CopyObject(ctx, &sdk.CopyObjectInput{Bucket: &b, Key: aws.String("copy"), CopySource: aws.String(b + "/" + key)})
		if got := code(err); got != want {
			t.Errorf("copy %s: %q", key, got)
		}
	}
	upload, err := s.CreateMultipartUpload(ctx, &sdk.CreateMultipartUploadInput{Bucket: &b, Key: aws.String("parts")})
	if err != nil {
		t.Fatal(err)
	}
	var parts []types.CompletedPart
	for i, span := range []string{"bytes=0-6", "bytes=7-10"} {
		p, err := s.UploadPartCopy(ctx, &sdk.UploadPartCopyInput{Bucket: &b, Key: aws.String("parts"), UploadId: upload.UploadId, PartNumber: aws.Int32(int32(i + 1)), CopySource: aws.String(b + "/eleven"), CopySourceRange: &span})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: p.CopyPartResult.ETag})
	}
	_, err = s.UploadPartCopy(ctx, &sdk.UploadPartCopyInput{Bucket: &b, Key: aws.String("parts"), UploadId: upload.UploadId, PartNumber: aws.Int32(3), CopySource: aws.String(b + "/eleven")})
	if got := code(err); got != "InvalidRequest" {
		t.Errorf("part of eleven bytes: %q", got)
	}
	if _, err := s.CompleteMultipartUpload(ctx, &sdk.CompleteMultipartUploadInput{Bucket: &b, Key: aws.String("parts"), UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.body(ctx, b, "parts"); err != nil || got != "0123456789a" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRestore follows an archived object from the request to the end of its copy.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, func(c *s3.Config) { c.RestoreDelay = 4 * time.Hour }, wire.Caller{})
		ctx := t.Context()
		b := s.bucket(t, "archive")
		if _, err := s.PutObject(ctx, &sdk.PutObjectInput{Bucket: &b, Key: aws.String("k"), Body: strings.NewReader("x"), StorageClass: types.StorageClassDeepArchive}); err != nil {
			t.Fatal(err)
		}
		restore := func() error {
			_, err := s.RestoreObject(ctx, &sdk.RestoreObjectInput{Bucket: &b, Key: aws.String("k"), RestoreRequest: &types.RestoreRequest{Days: aws.Int32(2)}})
			return err
		}
		for _, step := range []struct {
			after       time.Duration
			do          func() error
			body, state string
			code        string
		}{
			{0, nil, "InvalidObjectState", "", ""},
			{0, restore, "InvalidObjectState", `ongoing-request="true"`, ""},
			{time.Hour, restore, "InvalidObjectState", `ongoing-request="true"`, "RestoreAlreadyInProgress"},
			{3 * time.Hour, nil, "", `ongoing-request="false"`, ""},
			{24 * time.Hour, restore, "", `ongoing-request="false"`, ""},
			{4 * 24 * time.Hour, nil, "InvalidObjectState", "", ""},
		} {
			time.Sleep(step.after) // fake
			if step.do != nil {
				if got := code(step.do()); got != step.code {
					t.Errorf("restore: %q, want %q", got, step.code)
				}
			}
			if _, err := s.body(ctx, b, "k"); code(err) != step.body {
				t.Errorf("read: %v, want %q", err, step.body)
			}
			head, err := s.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b, Key: aws.String("k")})
			if err != nil || !strings.HasPrefix(aws.ToString(head.Restore), step.state) || step.state == "" && head.Restore != nil {
				t.Errorf("head: %v, %v, want %q", aws.ToString(head.Restore), err, step.state)
			}
		}
	})
}

// TestCompliance states that nobody gets around a compliance retention before its end.
func TestCompliance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil, wire.Caller{})
		ctx := t.Context()
		b := "worm"
		if _, err := s.CreateBucket(ctx, &sdk.CreateBucketInput{Bucket: &b, ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(time.Hour)
		put, err := s.PutObject(ctx, &sdk.PutObjectInput{Bucket: &b, Key: aws.String("k"), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
			ObjectLockMode: types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: &until})
		if err != nil {
			t.Fatal(err)
		}
		remove := func() error {
			_, err := s.DeleteObject(ctx, &sdk.DeleteObjectInput{Bucket: &b, Key: aws.String("k"), VersionId: put.VersionId, BypassGovernanceRetention: aws.Bool(true)})
			return err
		}
		retain := func(mode types.ObjectLockRetentionMode, until time.Time) error {
			_, err := s.PutObjectRetention(ctx, &sdk.PutObjectRetentionInput{Bucket: &b, Key: aws.String("k"), VersionId: put.VersionId, BypassGovernanceRetention: aws.Bool(true),
				Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: &until}})
			return err
		}
		for name, err := range map[string]error{
			"delete": remove(), "shorten": retain(types.ObjectLockRetentionModeCompliance, until.Add(-time.Minute)),
			"weaken": retain(types.ObjectLockRetentionModeGovernance, until.Add(time.Hour)), "update": s.update(b, "k", keyA),
		} {
			if code(err) != "AccessDenied" {
				t.Errorf("%s: %v", name, err)
			}
		}
		time.Sleep(time.Hour) // fake
		if err := s.update(b, "k", keyA); err != nil {
			t.Errorf("update after the retention: %v", err)
		}
		if err := remove(); err != nil {
			t.Errorf("delete after the retention: %v", err)
		}
	})
}

// TestNothingIsGuessed states that a request that asks for more than is
// modelled does not become a lesser one.
func TestNothingIsGuessed(t *testing.T) {
	s := newServer(t, nil, wire.Caller{})
	b := s.bucket(t, "careful")
	s.put(t, b, "k", "precious")
	for name, change := range map[string]func(*http.Request){
		"unknown subresource": func(r *http.Request) { r.URL.RawQuery = "annotation" },
		"two subresources":    func(r *http.Request) { r.URL.RawQuery = "acl&encryption" },
		"broken query":        func(r *http.Request) { r.URL.RawQuery = "encryption;x" },
		"append":              func(r *http.Request) { r.Header.Set("X-Amz-Write-Offset-Bytes", "8") },
		"unknown checksum":    func(r *http.Request) { r.Header.Set("X-Amz-Checksum-Xxhash3", "AAAA") },
		"rename":              func(r *http.Request) { r.Header.Set("X-Amz-Rename-Source", "/careful/other") },
		"unknown condition":   func(r *http.Request) { r.Header.Set("If-None-Match", `"abc"`) },
	} {
		r := httptest.NewRequest(http.MethodPut, "/careful/k", strings.NewReader("garbage"))
		change(r)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "<Code>NotImplemented</Code>") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if got, err := s.body(t.Context(), b, "k"); err != nil || got != "precious" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestConcurrentChanges lets writers of different attributes meet on one object:
// no change may be lost.
func TestConcurrentChanges(t *testing.T) {
	s := newServer(t, nil, wire.Caller{})
	ctx := t.Context()
	b := s.bucket(t, "busy")
	s.put(t, b, "k", "x")
	var group sync.WaitGroup
	for _, change := range []func() error{
		func() error { return s.update(b, "k", keyA) },
		func() error {
			_, err := s.PutObjectTagging(ctx, &sdk.PutObjectTaggingInput{Bucket: &b, Key: aws.String("k"), Tagging: &types.Tagging{TagSet: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}})
			return err
		},
		func() error { _, err := s.body(ctx, b, "k"); return err },
	} {
		for range 4 {
			group.Go(func() {
				for range 25 {
					if err := change(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	head, err := s.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b, Key: aws.String("k")})
	if err != nil || aws.ToString(head.SSEKMSKeyId) != keyA || aws.ToInt32(head.TagCount) != 1 {
		t.Errorf("%+v, %v", head, err)
	}
}

// BenchmarkSmallObjects stores, heads and updates tiny objects in process.
func BenchmarkSmallObjects(b *testing.B) {
	service := s3.New(s3.Config{Account: account, Region: "us-east-1", Keys: newKeyring()})
	serve := func(method, target, body string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("X-Amz-Server-Side-Encryption", "AES256")
		if service.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
		}
	}
	serve(http.MethodPut, "/bench", "")
	for _, op := range []struct{ name, method, query, body string }{
		{"put", http.MethodPut, "", "x"},
		{"head", http.MethodHead, "", ""},
		{"get", http.MethodGet, "", ""},
		{"update", http.MethodPut, "?encryption", "<ObjectEncryption><SSE-KMS><KMSKeyArn>" + keyA + "</KMSKeyArn></SSE-KMS></ObjectEncryption>"},
	} {
		for i := range 10_000 {
			serve(http.MethodPut, "/bench/"+strconv.Itoa(i), "x")
		}
		b.Run(op.name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n++
				serve(op.method, "/bench/"+strconv.Itoa(n%10_000)+op.query, op.body)
			}
		})
	}
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			serve(http.MethodGet, "/bench?list-type=2", "")
		}
	})
}
