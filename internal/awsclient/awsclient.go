// Package awsclient makes the AWS SDK's clients safe and fast for a worker:
// every client of the product is built from the configuration that [Load]
// returns.
//
// Everything that the SDK itself reads from the environment (AWS_REGION,
// AWS_ENDPOINT_URL, AWS_MAX_ATTEMPTS, AWS_CA_BUNDLE, …) stays the SDK's
// business; retries are the SDK's standard mode unless AWS_RETRY_MODE says
// otherwise.
package awsclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
)

// readTimeout ends a request whose connection went silent: without it a poll
// on a connection that a firewall forgot would wait for ever. It is far above
// the longest silence of a healthy answer, a 20-second long poll, and is the
// value that the SDK means to make its own default.
const readTimeout = 5 * time.Minute

// Load returns the SDK's default configuration with a shielded HTTP client (see
// [Shield]) that keeps up to connections idle connections open per host; give
// it the number of calls that run at once. Fewer than the SDK's default of 10
// are not useful and become 10.
//
// It fails when the environment contradicts itself, for example when
// AWS_CA_BUNDLE names a file that does not exist, and when no Region is set:
// every later call would fail for that reason.
func Load(ctx context.Context, connections int) (aws.Config, error) {
	client := awshttp.NewBuildableClient().
		WithReadTimeout(readTimeout).
		WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = max(connections, awshttp.DefaultHTTPTransportMaxIdleConnsPerHost)
			// The bound per host is the one that counts: the number of hosts is
			// that of the services, or of the buckets at work.
			t.MaxIdleConns = 0
		})
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client))
	if err != nil {
		return aws.Config{}, fmt.Errorf("load AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return aws.Config{}, errors.New("load AWS configuration: no Region: set AWS_REGION")
	}
	// Only now: with AWS_CA_BUNDLE set, loading refuses any client but its own.
	cfg.HTTPClient = Shield(cfg.HTTPClient)
	return cfg, nil
}

// As returns cfg with the credentials of a role that its caller assumes (STS's AssumeRole) for
// a session of that name: at the first call, and again before they run out. Why a role cannot
// be assumed is in the errors of the calls.
func As(cfg aws.Config, roleARN, session string) aws.Config {
	role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), roleARN, func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = session })
	cfg.Credentials = aws.NewCredentialsCache(role)
	return cfg
}

// S3 returns an S3 client made from cfg. With pathStyle nil it addresses
// buckets by path exactly when a custom endpoint is configured
// (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3 or endpoint_url in the shared
// configuration), since few local servers answer to bucket.host names;
// otherwise *pathStyle decides.
func S3(cfg aws.Config, pathStyle *bool) *s3.Client {
	endpoints := &rememberedEndpoints{next: s3.NewDefaultEndpointResolverV2(), known: map[endpointParameters]smithyendpoints.Endpoint{}}
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.EndpointResolverV2 = endpoints
		o.UsePathStyle = o.BaseEndpoint != nil
		// An object without a checksum is no news, and one line for each would be.
		o.DisableLogOutputChecksumValidationSkipped = true
		if pathStyle != nil {
			o.UsePathStyle = *pathStyle
		}
	})
}

// SQS returns an SQS client made from cfg. Over TLS it leaves out the MD5 sums that
// SQS gives with messages: the connection proves already that nothing has changed.
func SQS(cfg aws.Config) *sqs.Client {
	return sqs.NewFromConfig(cfg, func(o *sqs.Options) {
		o.DisableMessageChecksumValidation = o.BaseEndpoint == nil || strings.HasPrefix(*o.BaseEndpoint, "https://")
	})
}

// Shield returns a client that sends requests through c and hides the WriteTo
// method of their bodies.
//
// The SDK closes a request's body as soon as the response headers arrive
// (smithy-go, transport/http/client.go). net/http may then still be probing the
// body for bytes beyond its Content-Length, and a closed SDK body answers that
// probe with io.EOF from WriteTo, where io.WriterTo asks for nil. net/http takes
// it for a failed write and closes the connection under the response. On fast
// connections that loses 1–3 % of answers: for ReceiveMessage a batch that the
// queue has already handed out and that nobody holds, until its visibility
// timeout. Read answers the same probe correctly.
func Shield(c aws.HTTPClient) aws.HTTPClient { return shield{c} }

type shield struct{ next aws.HTTPClient }

func (s shield) Do(r *http.Request) (*http.Response, error) {
	if _, ok := r.Body.(io.WriterTo); ok {
		shielded := *r
		shielded.Body = struct{ io.ReadCloser }{r.Body}
		r = &shielded
	}
	return s.next.Do(r)
}
