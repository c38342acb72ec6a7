package awsclient

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// inFlight is the number of messages that a queue has handed out.
const inFlight = types.QueueAttributeNameApproximateNumberOfMessagesNotVisible

// TestShield replays, step by step, the race in which the SDK loses a batch
// that the queue has handed out (see Shield). On a real connection it happens
// by chance in 1–3 % of calls; here every step waits for the one before it.
func TestShield(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		client func(aws.HTTPClient) aws.HTTPClient
		want   int
	}{
		"the SDK alone loses the batch": {func(c aws.HTTPClient) aws.HTTPClient { return c }, 0},
		"the shield keeps it":           {Shield, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := localaws.New(localaws.Options{})
			t.Cleanup(server.Close)
			direct := sqs.NewFromConfig(inprocess.Config(server, "us-east-1", "test"))
			queue, err := direct.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("events")})
			if err != nil {
				t.Fatal(err)
			}
			_, err = direct.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: queue.QueueUrl, MessageBody: aws.String("hello")})
			if err != nil {
				t.Fatal(err)
			}

			race := &race{headersRead: make(chan struct{}), requestDone: make(chan struct{})}
			listener := httptest.NewServer(race.server(server))
			t.Cleanup(listener.Close)
			transport := &http.Transport{DialContext: race.dial}
			t.Cleanup(transport.CloseIdleConnections)
			cfg := inprocess.Config(nil, "us-east-1", "test")
			cfg.BaseEndpoint = &listener.URL
			cfg.Retryer = func() aws.Retryer {
				return retry.NewStandard(func(o *retry.StandardOptions) {
					o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
				})
			}
			cfg.HTTPClient = test.client(race.client(&http.Client{Transport: transport}))

			out, err := sqs.NewFromConfig(cfg).ReceiveMessage(race.trace(t.Context()), &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl})
			if err != nil {
				t.Fatal(err)
			}
			if got := len(out.Messages); got != test.want {
				t.Errorf("ReceiveMessage returned %d messages, want %d", got, test.want)
			}
			attributes, err := direct.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{
				QueueUrl: queue.QueueUrl, AttributeNames: []types.QueueAttributeName{inFlight},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := attributes.Attributes[string(inFlight)]; got != "1" {
				t.Errorf("%s = %s, want 1: the queue has handed the message out", inFlight, got)
			}
		})
	}
}

// race makes the first exchange on a client go the unlucky way: the server
// answers before the client has finished sending, which is after the last byte
// of the body and before net/http has looked for a byte too many.
type race struct {
	headersRead chan struct{} // closed when the SDK has closed the request's body
	requestDone chan struct{} // closed when net/http is done with the request
	read, done  sync.Once
}

// dial returns connections whose writes end only when the response's headers
// have been read.
func (r *race) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &racingConn{conn, r}, err
}

type racingConn struct {
	net.Conn
	race *race
}

func (c *racingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if len(b) > 0 && b[len(b)-1] == '}' { // the end of the JSON body
		<-c.race.headersRead
	}
	return n, err
}

func (c *racingConn) Close() error {
	err := c.Conn.Close()
	c.race.done.Do(func() { close(c.race.requestDone) })
	return err
}

// trace lets the exchange go on when the request was sent without an error;
// after an error net/http closes the connection.
func (r *race) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(i httptrace.WroteRequestInfo) {
		if i.Err == nil {
			r.done.Do(func() { close(r.requestDone) })
		}
	}})
}

// client notices that the SDK reads the response: it has closed the request's
// body by then.
func (r *race) client(next aws.HTTPClient) aws.HTTPClient {
	return doFunc(func(request *http.Request) (*http.Response, error) {
		response, err := next.Do(request)
		if err == nil {
			response.Body = &racingBody{response.Body, r}
		}
		return response, err
	})
}

type doFunc func(*http.Request) (*http.Response, error)

func (f doFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

type racingBody struct {
	io.ReadCloser
	race *race
}

func (b *racingBody) Read(p []byte) (int, error) {
	b.race.read.Do(func() { close(b.race.headersRead) })
	return b.ReadCloser.Read(p)
}

// server sends the headers at once and the body when the client's net/http is
// done with the request, either way.
func (r *race) server(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		next.ServeHTTP(&racingWriter{w, r}, request)
	})
}

type racingWriter struct {
	http.ResponseWriter
	race *race
}

func (w *racingWriter) Write(b []byte) (int, error) {
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	<-w.race.requestDone
	return w.ResponseWriter.Write(b)
}

func TestLoad(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-central-1")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	cfg, err := Load(t.Context(), 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := cfg.HTTPClient.(shield); !ok {
		t.Errorf("HTTP client is a %T, want it shielded", cfg.HTTPClient)
	}
	if cfg.Region != "eu-central-1" {
		t.Errorf("Region = %q", cfg.Region)
	}

	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	if _, err := Load(t.Context(), 64); err == nil {
		t.Error("Load without a Region succeeded")
	}
}

func TestS3PathStyle(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		name     string
		variable string
		choice   *bool
		want     bool
	}{
		{"AWS", "", nil, false},
		{"endpoint of all services", "AWS_ENDPOINT_URL", nil, true},
		{"endpoint of S3", "AWS_ENDPOINT_URL_S3", nil, true},
		{"endpoint of another service", "AWS_ENDPOINT_URL_SQS", nil, false},
		{"chosen on AWS", "", &yes, true},
		{"refused on an endpoint", "AWS_ENDPOINT_URL", &no, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("AWS_REGION", "us-east-1")
			t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			if test.variable != "" {
				t.Setenv(test.variable, "http://127.0.0.1:4566")
			}
			cfg, err := Load(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if got := S3(cfg, test.choice).Options().UsePathStyle; got != test.want {
				t.Errorf("UsePathStyle = %v, want %v", got, test.want)
			}
		})
	}

}

// TestMessageChecksums gives a body that its MD5 sum does not fit: over TLS nobody
// looks at it.
func TestMessageChecksums(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		endpoint *string
		checked  bool
	}{
		"AWS's own endpoint":    {nil, false},
		"an endpoint with TLS":  {aws.String("https://sqs.example"), false},
		"an endpoint without":   {aws.String("http://localhost:4566"), true},
		"one that is not known": {aws.String("localhost:4566"), true},
	} {
		cfg := inprocess.Config(nil, "us-east-1", "test")
		cfg.BaseEndpoint = test.endpoint
		cfg.HTTPClient = clientFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader(
				`{"Messages":[{"MessageId":"1","ReceiptHandle":"r","Body":"hello","MD5OfBody":"d41d8cd98f00b204e9800998ecf8427e"}]}`))}, nil
		})
		out, err := SQS(cfg).ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String("https://sqs.example/1/q")})
		switch {
		case test.checked && (err == nil || !strings.Contains(err.Error(), "checksum")):
			t.Errorf("%s: received with %v", name, err)
		case !test.checked && (err != nil || len(out.Messages) != 1):
			t.Errorf("%s: %v", name, err)
		}
	}
}

type clientFunc func(*http.Request) (*http.Response, error)

func (f clientFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }
