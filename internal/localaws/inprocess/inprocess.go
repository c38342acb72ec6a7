// Package inprocess connects the AWS SDK's clients to an http.Handler in the
// same process, without a socket. Requests then also work inside a
// testing/synctest bubble, where a long poll costs no real time.
package inprocess

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Endpoint is the base endpoint that Config sets; nothing listens there.
const Endpoint = "http://localaws.internal"

// Client is an aws.HTTPClient that calls Handler. A handler that panics with
// http.ErrAbortHandler is seen by the client as a connection that broke.
type Client struct {
	Handler http.Handler
}

// ErrConnectionReset is what the client returns when the handler dropped the connection.
var ErrConnectionReset = errors.New("connection reset by peer")

// Do serves the request with the handler in a goroutine of its own, so that a
// cancelled context returns at once, as it does over a socket.
func (c Client) Do(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	in := req.Clone(ctx)
	in.Body = io.NopCloser(bytes.NewReader(body))
	in.ContentLength = int64(len(body))
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares the panic value itself
					panic(p)
				}
				done <- ErrConnectionReset
				return
			}
			done <- nil
		}()
		c.Handler.ServeHTTP(w, in)
	}()
	select {
	case <-ctx.Done():
		cancel(nil)
		return nil, ctx.Err()
	case err := <-done:
		cancelled := req.Context().Err() // the handler may have returned because of it
		cancel(nil)
		if err := cmp.Or(cancelled, err); err != nil {
			return nil, err
		}
	}
	if req.Method == http.MethodHead { // net/http sends no body either
		w.body.Reset()
	}
	length := int64(w.body.Len())
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: length, Request: req,
	}, nil
}

type recorder struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.wrote = true
	return w.body.Write(p)
}

// Config returns an SDK configuration whose clients call h, signed with the
// access key id (which is all that localaws looks at). S3 clients made from it
// need UsePathStyle.
func Config(h http.Handler, region, accessKeyID string) aws.Config {
	return aws.Config{
		Region:       region,
		BaseEndpoint: aws.String(Endpoint),
		HTTPClient:   Client{Handler: h},
		// What config.LoadDefaultConfig sets.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: "localaws"}, nil
		}),
	}
}
