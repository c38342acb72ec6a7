package s3_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

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

func TestConditionalPut(t *testing.T) {
	s := newServer(t, nil, wire.Caller{})
	b := s.bucket(t, "conditional")
	in := func(match, noneMatch string) *sdk.PutObjectInput {
		p := &sdk.PutObjectInput{Bucket: &b, Key: aws.String("k"), Body: strings.NewReader("x")}
		if match != "" {
			p.IfMatch = &match
		}
		if noneMatch != "" {
			p.IfNoneMatch = &noneMatch
		}
		return p
	}
	_, err := s.PutObject(t.Context(), in(`"0"`, ""))
	if got := code(err); got != "NoSuchKey" {
		t.Errorf("If-Match on nothing: %q", got)
	}
	first, err := s.PutObject(t.Context(), in("", "*"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.PutObject(t.Context(), in("", "*"))
	if got := code(err); got != "PreconditionFailed" {
		t.Errorf("If-None-Match on something: %q", got)
	}
	_, err = s.PutObject(t.Context(), in(`"0123"`, ""))
	if got := code(err); got != "PreconditionFailed" {
		t.Errorf("If-Match on another ETag: %q", got)
	}
	if _, err = s.PutObject(t.Context(), in(*first.ETag, "")); err != nil {
		t.Errorf("If-Match on the ETag: %v", err)
	}
	_, err = s.PutObject(t.Context(), in("", `"abc"`))
	if got := code(err); got != "NotImplemented" {
		t.Errorf("If-None-Match with an ETag: %q", got)
	}
}
