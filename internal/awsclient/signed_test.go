package awsclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3control"
	"github.com/aws/smithy-go"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

type attribute struct{ AttributeKey, AttributeValue string }

type lookup struct {
	LookupAttributes []attribute
	MaxResults       int
}

// patient tries again two seconds later each time: CloudTrail takes two look-ups a second,
// and the SDK may wait for less than that.
func patient(cfg aws.Config) aws.Config {
	cfg.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 2 * time.Second, nil })
		})
	}
	return cfg
}

// TestAnswersAreThoseOfTheSDK makes the same calls by a signed request and by the SDK's client.
func TestAnswersAreThoseOfTheSDK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := localaws.New(localaws.Options{})
		defer server.Close()
		cfg := inprocess.Config(server, "us-east-1", "ada")
		keys := kms.NewFromConfig(cfg)
		key, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		arn := *key.KeyMetadata.Arn
		for range 3 {
			if _, err := keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour) // fake: the history of events lags behind
		sdk, ours := cloudtrail.NewFromConfig(cfg), CloudTrail(cfg)

		want, err := sdk.LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{
			LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyResourceName, AttributeValue: &arn}}, MaxResults: aws.Int32(2),
		})
		if err != nil || len(want.Events) != 2 || want.NextToken == nil { // which is ignored
			t.Fatalf("the SDK: %+v, %v", want, err)
		}
		var got struct {
			Events []struct {
				EventName, Username, CloudTrailEvent string
				EventTime                            float64
			}
		}
		if err := ours.Call(t.Context(), "LookupEvents", lookup{[]attribute{{"ResourceName", arn}}, 2}, &got); err != nil {
			t.Fatal(err)
		}
		var theirs, our [][]string
		for _, e := range want.Events {
			theirs = append(theirs, []string{*e.EventName, *e.Username, *e.CloudTrailEvent, e.EventTime.UTC().String()})
		}
		for _, e := range got.Events {
			our = append(our, []string{e.EventName, e.Username, e.CloudTrailEvent, time.Unix(int64(e.EventTime), 0).UTC().String()})
		}
		if d := cmp.Diff(theirs, our); d != "" {
			t.Error(d)
		}

		server.SetIdentityPolicy("eve", func(string, string) bool { return false })
		for caller, most := range map[string]int{"ada": 51, "eve": 50} { // refused, denied
			cfg := patient(inprocess.Config(server, "us-east-1", caller))
			_, want := cloudtrail.NewFromConfig(cfg).LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{MaxResults: aws.Int32(int32(most))})
			sameError(t, CloudTrail(cfg).Call(t.Context(), "LookupEvents", lookup{nil, most}, nil), want)
		}
		_, wantErr := s3control.NewFromConfig(cfg).DescribeJob(t.Context(), &s3control.DescribeJobInput{AccountId: aws.String("111122223333"), JobId: aws.String("x")})
		sameError(t, S3Control(cfg, "111122223333").Call(t.Context(), http.MethodGet, "/v20180820/jobs/x", nil, nil), wantErr)
	})
}

// sameError compares what callers look at in errors.
func sameError(t *testing.T, got, want error) {
	t.Helper()
	type seen struct {
		code, message string
		status        int
		identified    bool
	}
	look := func(err error) (s seen) {
		if e, ok := errors.AsType[smithy.APIError](err); ok {
			s.code, s.message = e.ErrorCode(), e.ErrorMessage()
		}
		if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
			s.status = e.HTTPStatusCode()
		}
		if e, ok := errors.AsType[interface {
			error
			ServiceRequestID() string
		}](err); ok {
			s.identified = e.ServiceRequestID() != ""
		}
		return s
	}
	if g, w := look(got), look(want); g != w || g.code == "" {
		t.Errorf("error %v: %+v; the SDK's %+v", got, g, w)
	}
}

// TestRetries lets calls fail and counts the requests, beside those of the SDK's client.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		fault localaws.Fault
		tries int
	}{
		"failed":    {localaws.Fault{Effect: localaws.FailAfter, Count: 2}, 3},
		"no answer": {localaws.Fault{Effect: localaws.DropAfter, Count: 2}, 3},
		"throttled": {localaws.Fault{Effect: localaws.Throttle, Rate: 1e-3}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := func(call func(aws.Config) error) (int, error) {
					server := localaws.New(localaws.Options{})
					defer server.Close()
					c.fault.Service = "cloudtrail"
					server.SetFaults(c.fault)
					cfg, before := patient(inprocess.Config(server, "us-east-1", "ada")), 0
					if c.fault.Effect == localaws.Throttle { // one request passes
						if err := call(cfg); err != nil {
							t.Fatal(err)
						}
						before = 1
					}
					err := call(cfg)
					return server.Requests("cloudtrail", "LookupEvents") - before, err
				}
				theirs, want := requests(func(cfg aws.Config) error {
					_, err := cloudtrail.NewFromConfig(cfg).LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{})
					return err
				})
				ours, got := requests(func(cfg aws.Config) error { return CloudTrail(cfg).Call(t.Context(), "LookupEvents", struct{}{}, nil) })
				if ours != theirs || ours != c.tries || (got == nil) != (want == nil) {
					t.Errorf("%d requests, %v; the SDK %d, %v", ours, got, theirs, want)
				}
			})
		})
	}
}

// TestRetriesEndWithTheContext: a wait for the next attempt is not sat out.
func TestRetriesEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := localaws.New(localaws.Options{})
		defer server.Close()
		server.SetFaults(localaws.Fault{Service: "cloudtrail", Effect: localaws.Throttle, Rate: 1e-3})
		client := CloudTrail(inprocess.Config(server, "us-east-1", "ada"))
		if err := client.Call(t.Context(), "LookupEvents", struct{}{}, nil); err != nil { // one request passes
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		err := client.Call(ctx, "LookupEvents", struct{}{}, nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestEndpointsOfSignedRequests: the endpoints are those of the SDK's packages.
func TestEndpointsOfSignedRequests(t *testing.T) {
	for _, region := range []string{"us-east-1", "eu-central-1", "mx-central-1", "cn-north-1", "us-gov-west-1", "us-gov-east-1", "us-iso-east-1", "us-isob-east-1", "eusc-de-east-1"} {
		for i := range 4 {
			fips, dualStack := i%2 == 1, i > 1
			t.Run(region+" fips "+strconv.FormatBool(fips)+" dual-stack "+strconv.FormatBool(dualStack), func(t *testing.T) {
				t.Setenv("AWS_REGION", region)
				t.Setenv("AWS_USE_FIPS_ENDPOINT", strconv.FormatBool(fips))
				t.Setenv("AWS_USE_DUALSTACK_ENDPOINT", strconv.FormatBool(dualStack))
				cfg := loaded(t)
				trail, trailErr := cloudtrail.NewDefaultEndpointResolverV2().ResolveEndpoint(t.Context(), cloudtrail.EndpointParameters{Region: &region, UseFIPS: &fips, UseDualStack: &dualStack})
				sameEndpoint(t, CloudTrail(cfg).service, trail, trailErr)
				control, controlErr := s3control.NewDefaultEndpointResolverV2().ResolveEndpoint(t.Context(), s3control.EndpointParameters{
					Region: &region, UseFIPS: &fips, UseDualStack: &dualStack, AccountId: aws.String("111122223333"), RequiresAccountId: aws.Bool(true),
				})
				sameEndpoint(t, S3Control(cfg, "111122223333").service, control, controlErr)
			})
		}
	}
}

// TestEndpointOfAWSConfig has the endpoints of the SDK's package configservice, v1.74.11.
// In GovCloud the one with FIPS has the name of the one without.
func TestEndpointOfAWSConfig(t *testing.T) {
	for _, test := range []struct {
		region          string
		fips, dualStack bool
		want            string
	}{
		{"eu-central-1", false, false, "https://config.eu-central-1.amazonaws.com"},
		{"eu-central-1", true, false, "https://config-fips.eu-central-1.amazonaws.com"},
		{"eu-central-1", true, true, "https://config-fips.eu-central-1.api.aws"},
		{"cn-north-1", false, true, "https://config.cn-north-1.api.amazonwebservices.com.cn"},
		{"us-gov-west-1", false, false, "https://config.us-gov-west-1.amazonaws.com"},
		{"us-gov-west-1", true, false, "https://config.us-gov-west-1.amazonaws.com"},
		{"us-gov-east-1", true, true, "https://config-fips.us-gov-east-1.api.aws"},
	} {
		t.Setenv("AWS_REGION", test.region)
		t.Setenv("AWS_USE_FIPS_ENDPOINT", strconv.FormatBool(test.fips))
		t.Setenv("AWS_USE_DUALSTACK_ENDPOINT", strconv.FormatBool(test.dualStack))
		if got, err := AWSConfig(loaded(t)).endpoint(); err != nil || got.String() != test.want {
			t.Errorf("%s: %v, %v, want %s", test.region, got, err, test.want)
		}
	}
}

func sameEndpoint(t *testing.T, s service, want smithyendpoints.Endpoint, wantErr error) {
	t.Helper()
	got, err := s.endpoint()
	if (err == nil) != (wantErr == nil) || err == nil && got.String() != want.URI.String() {
		t.Errorf("%s: %v, %v; the SDK says %v, %v", s.id, got, err, want.URI.String(), wantErr)
	}
}

func loaded(t *testing.T) aws.Config {
	t.Helper()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	cfg, err := Load(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestCustomEndpoints: they are found where the SDK's packages find them.
func TestCustomEndpoints(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(shared, []byte("[default]\nservices = local\n[services local]\ncloudtrail =\n  endpoint_url = http://shared\ns3_control =\n  endpoint_url = http://shared-control\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, environment := range map[string]map[string]string{
		"none":              {},
		"all":               {"AWS_ENDPOINT_URL": "http://all"},
		"own":               {"AWS_ENDPOINT_URL_CLOUDTRAIL": "http://own", "AWS_ENDPOINT_URL_EVENTBRIDGE": "http://bus", "AWS_ENDPOINT_URL_S3_CONTROL": "http://control"},
		"all and own":       {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_CLOUDTRAIL": "http://own", "AWS_ENDPOINT_URL_S3_CONTROL": "http://control"},
		"ignored":           {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_CLOUDTRAIL": "http://own", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
		"another":           {"AWS_ENDPOINT_URL_SQS": "http://queues", "AWS_ENDPOINT_URL_S3": "http://buckets"},
		"shared":            {"AWS_CONFIG_FILE": shared},
		"all and shared":    {"AWS_CONFIG_FILE": shared, "AWS_ENDPOINT_URL": "http://all"},
		"own before shared": {"AWS_CONFIG_FILE": shared, "AWS_ENDPOINT_URL_CLOUDTRAIL": "http://own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_REGION", "us-east-1")
			for variable, value := range environment {
				t.Setenv(variable, value)
			}
			cfg := loaded(t)
			for id, want := range map[string]*string{
				"CloudTrail":  cloudtrail.NewFromConfig(cfg).Options().BaseEndpoint,
				"EventBridge": eventbridge.NewFromConfig(cfg).Options().BaseEndpoint,
				"S3 Control":  s3control.NewFromConfig(cfg).Options().BaseEndpoint,
			} {
				if d := cmp.Diff(want, customEndpoint(cfg, id)); d != "" {
					t.Errorf("%s: %s", id, d)
				}
			}
		})
	}
}

// TestSignature signs again what was sent: a request that AWS would refuse does not pass.
// The clock of AWS is a day ahead, and the second attempt is signed by it.
func TestSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lead = 24 * time.Hour
		cfg := inprocess.Config(nil, "eu-central-1", "ada")
		cfg.BaseEndpoint = aws.String("https://aws.example/base/")
		attempts := 0
		cfg.HTTPClient = clientFunc(func(r *http.Request) (*http.Response, error) {
			attempts++
			now := time.Now().Add(lead)
			at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
			if err != nil {
				t.Fatal(err)
			}
			answer := func(status int, body string) (*http.Response, error) {
				header := http.Header{"Date": {now.UTC().Format(http.TimeFormat)}}
				return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
			}
			if now.Sub(at).Abs() > 5*time.Minute {
				return answer(http.StatusForbidden, `<ErrorResponse><Error><Code>RequestTimeTooSkewed</Code></Error></ErrorResponse>`)
			}
			again := r.Clone(r.Context())
			again.Header.Del("Authorization")
			credentials, _ := cfg.Credentials.Retrieve(r.Context())
			if err := v4.NewSigner().SignHTTP(r.Context(), credentials, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", "eu-central-1", at); err != nil {
				t.Fatal(err)
			}
			if got, want := r.Header.Get("Authorization"), again.Header.Get("Authorization"); got != want || got == "" {
				t.Errorf("Authorization %s, want %s", got, want)
			}
			if want := "https://aws.example/base/v20180820/jobs/x/status?statusUpdateReason=a%20b"; r.URL.String() != want {
				t.Errorf("sent to %s, want %s", r.URL, want)
			}
			return answer(http.StatusOK, "<Answer><Status>Cancelled</Status></Answer>")
		})
		client := S3Control(cfg, "111122223333")
		for range 2 {
			var out struct{ Status string }
			if err := client.Call(t.Context(), http.MethodPost, "/v20180820/jobs/x/status?statusUpdateReason=a+b", nil, &out); err != nil || out.Status != "Cancelled" {
				t.Fatalf("%+v, %v", out, err)
			}
		}
		if attempts != 3 {
			t.Errorf("%d attempts, want 3: only the first is signed by our clock", attempts)
		}
	})
}

// TestAnswersThatAreNoDocuments: what a proxy says is an error with its status.
func TestAnswersThatAreNoDocuments(t *testing.T) {
	for status, want := range map[int]string{http.StatusOK: "decode the answer", http.StatusForbidden: "UnknownError"} {
		cfg := inprocess.Config(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>a proxy")
		}), "us-east-1", "ada")
		var out struct{ Job struct{} }
		for _, err := range []error{
			CloudTrail(cfg).Call(t.Context(), "LookupEvents", json.RawMessage("{}"), &out),
			S3Control(cfg, "111122223333").Call(t.Context(), http.MethodGet, "/", nil, &out),
			NewIAM(cfg).Call(t.Context(), "GetAccountAuthorizationDetails", nil, &out),
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%d: %v, want %s", status, err, want)
			}
		}
	}
}

// TestEBSEncryption asks EC2 as its query API wants it. The SDK's package, which is the
// largest there is, is no dependency of the tests either.
func TestEBSEncryption(t *testing.T) {
	server := localaws.New(localaws.Options{})
	defer server.Close()
	cfg := inprocess.Config(server, "us-east-1", "ada")
	client := NewEC2(cfg)
	for _, want := range []bool{false, true} {
		server.EC2().EncryptByDefault(want)
		if got, err := client.EncryptedByDefault(t.Context()); err != nil || got != want {
			t.Errorf("encrypted by default: %v, %v, want %v", got, err, want)
		}
	}
	cfg.HTTPClient = roundTripper(func(*http.Request) (*http.Response, error) {
		body := `<?xml version="1.0"?><Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized</Message></Error></Errors><RequestID>x</RequestID></Response>`
		return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
	_, err := NewEC2(cfg).EncryptedByDefault(t.Context())
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != "UnauthorizedOperation" || e.ErrorMessage() != "You are not authorized" {
		t.Errorf("denied: %v", err)
	}
	cfg.HTTPClient = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Host != "ec2.us-east-1.amazonaws.com" && cfg.BaseEndpoint == nil {
			t.Errorf("host %s", r.Host)
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html></html>"))}, nil
	})
	if _, err := NewEC2(cfg).EncryptedByDefault(t.Context()); err == nil {
		t.Error("a page that does not say is taken for an answer")
	}
}

// TestEndpointOfIAM has the endpoints of the endpoint rules that AWS publishes for IAM, which
// its SDKs share. IAM's SDK package is large and in no test either.
func TestEndpointOfIAM(t *testing.T) {
	for _, test := range []struct {
		region          string
		fips, dualStack bool
		want, signed    string
	}{
		{"us-east-1", false, false, "https://iam.amazonaws.com", "us-east-1"},
		{"eu-central-1", false, false, "https://iam.amazonaws.com", "us-east-1"},
		{"eu-central-1", true, false, "https://iam-fips.amazonaws.com", "us-east-1"},
		{"eu-central-1", false, true, "https://iam.global.api.aws", "us-east-1"},
		{"eu-central-1", true, true, "https://iam-fips.global.api.aws", "us-east-1"},
		{"cn-northwest-1", false, false, "https://iam.cn-north-1.amazonaws.com.cn", "cn-north-1"},
		{"cn-northwest-1", false, true, "https://iam.global.api.amazonwebservices.com.cn", "cn-north-1"},
		{"us-gov-east-1", false, false, "https://iam.us-gov.amazonaws.com", "us-gov-west-1"},
		{"us-gov-east-1", true, false, "https://iam.us-gov.amazonaws.com", "us-gov-west-1"},
		{"us-gov-east-1", false, true, "https://iam.us-gov.api.aws", "us-gov-west-1"},
		{"us-gov-west-1", true, true, "https://iam.us-gov.api.aws", "us-gov-west-1"},
		{"us-iso-west-1", false, false, "https://iam.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"},
		{"us-iso-west-1", true, false, "https://iam-fips.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"},
		{"us-isob-east-1", false, false, "https://iam.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"},
		{"eu-isoe-west-1", false, false, "https://iam.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1"},
		{"us-isof-east-1", false, false, "https://iam.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1"},
		{"eusc-de-east-1", false, false, "https://iam.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"},
	} {
		t.Setenv("AWS_REGION", test.region)
		t.Setenv("AWS_USE_FIPS_ENDPOINT", strconv.FormatBool(test.fips))
		t.Setenv("AWS_USE_DUALSTACK_ENDPOINT", strconv.FormatBool(test.dualStack))
		client := NewIAM(loaded(t))
		if got, err := client.endpoint(); err != nil || got.String() != test.want || client.signingRegion != test.signed {
			t.Errorf("%s, FIPS %t, dual-stack %t: %v for %s, %v, want %s for %s", test.region, test.fips, test.dualStack, got, client.signingRegion, err, test.want, test.signed)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL", "http://all")
	for _, want := range []string{"http://all", "http://own"} {
		if got, err := NewIAM(loaded(t)).endpoint(); err != nil || got.String() != want {
			t.Errorf("%v, %v, want %s", got, err, want)
		}
		t.Setenv("AWS_ENDPOINT_URL_IAM", "http://own")
	}
}

// TestIAM asks IAM as its query API wants it, from any Region.
func TestIAM(t *testing.T) {
	server := localaws.New(localaws.Options{Account: "111122223333", Region: "eu-central-1"})
	defer server.Close()
	for _, name := range []string{"ada", "bob"} {
		if _, err := server.IAM().SetUser(iam.User{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	server.SetIdentityPolicy("eve", func(string, string) bool { return false })
	var out struct {
		Users     []string `xml:"UserDetailList>member>UserName"`
		Truncated bool     `xml:"IsTruncated"`
	}
	ask := url.Values{"MaxItems": {"1"}, "Filter.member.1": {"User"}}
	cfg := inprocess.Config(server, "eu-central-1", "reader")
	next := cfg.HTTPClient
	cfg.HTTPClient = roundTripper(func(r *http.Request) (*http.Response, error) {
		if authorization := r.Header.Get("Authorization"); !strings.Contains(authorization, "/us-east-1/iam/aws4_request") {
			t.Errorf("signed %s", authorization)
		}
		return next.Do(r)
	})
	if err := NewIAM(cfg).Call(t.Context(), "GetAccountAuthorizationDetails", ask, &out); err != nil || !slices.Equal(out.Users, []string{"ada"}) || !out.Truncated {
		t.Errorf("%+v, %v", out, err)
	}
	err := NewIAM(inprocess.Config(server, "eu-central-1", "eve")).Call(t.Context(), "GetAccountAuthorizationDetails", nil, &out)
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != "AccessDenied" || !strings.Contains(e.ErrorMessage(), "iam:GetAccountAuthorizationDetails") {
		t.Errorf("denied: %v", err)
	}
}

// roundTripper is an HTTP client that answers by itself.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) Do(r *http.Request) (*http.Response, error) { return f(r) }
