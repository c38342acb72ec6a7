package awsclient

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// TestObserve has clients of the SDK and our own ask something that answers badly first.
func TestObserve(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	answers := func(bodies ...string) aws.Config { // what is answered; "": the connection breaks, "cancel": the caller gives up
		cfg := inprocess.Config(nil, "us-east-1", "test")
		cfg.Retryer = func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
			})
		}
		cfg.HTTPClient = clientFunc(func(r *http.Request) (*http.Response, error) {
			body := bodies[0]
			bodies = bodies[1:]
			switch body {
			case "":
				return nil, io.ErrUnexpectedEOF
			case "cancel":
				cancel()
				return nil, r.Context().Err()
			}
			status := http.StatusOK
			if body != "{}" {
				status = http.StatusBadRequest
			}
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		return cfg
	}
	describe := func(ctx context.Context, cfg aws.Config) error {
		_, err := kms.NewFromConfig(cfg).DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("k")})
		return err
	}
	lookup := func(ctx context.Context, cfg aws.Config) error {
		return CloudTrail(cfg).Call(ctx, "LookupEvents", struct{}{}, nil)
	}
	for name, test := range map[string]struct {
		ctx     context.Context
		call    func(context.Context, aws.Config) error
		answers []string
		want    []Request
		fails   bool
	}{
		"it works": {t.Context(), describe, []string{"{}"}, []Request{{"KMS", "DescribeKey", CodeOK, 0}}, false},
		"each attempt counts": {t.Context(), describe, []string{`{"__type":"ThrottlingException"}`, "", "{}"},
			[]Request{{"KMS", "DescribeKey", "ThrottlingException", 0}, {"KMS", "DescribeKey", CodeUnreachable, 0}, {"KMS", "DescribeKey", CodeOK, 0}}, false},
		"a refusal":          {t.Context(), describe, []string{`{"__type":"NotFoundException"}`}, []Request{{"KMS", "DescribeKey", "NotFoundException", 0}}, true},
		"given up":           {canceled, describe, []string{"cancel"}, []Request{{"KMS", "DescribeKey", CodeCanceled, 0}}, true},
		"a client of ours":   {t.Context(), lookup, []string{`{"__type":"ThrottlingException"}`, "{}"}, []Request{{"CloudTrail", "LookupEvents", "ThrottlingException", 0}, {"CloudTrail", "LookupEvents", CodeOK, 0}}, false},
		"ours, and no reply": {t.Context(), lookup, []string{"", "{}"}, []Request{{"CloudTrail", "LookupEvents", CodeUnreachable, 0}, {"CloudTrail", "LookupEvents", CodeOK, 0}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var got []Request
			cfg := answers(test.answers...)
			err := test.call(test.ctx, Observe(cfg, func(_ context.Context, r Request) {
				if r.Took < 0 {
					t.Errorf("it took %s", r.Took)
				}
				r.Took = 0
				got = append(got, r)
			}))
			if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.fails {
				t.Errorf("%v: %s", err, diff)
			}
			if len(cfg.APIOptions) != 0 {
				t.Error("the configuration that was given has changed")
			}
		})
	}
}
