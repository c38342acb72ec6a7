package awsclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/restjson"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// service is a service that is called by signed requests and not by its SDK package,
// which would be in the binary with every operation of the service
// (docs/decisions/signed-requests.md). Signing, retries and the correction of the
// clock are those of the SDK.
type service struct {
	id, signingName string
	config          aws.Config
	options         func() sqs.Options // what the SDK makes of config for any service
	endpoint        func() (*url.URL, error)
	signingRegion   string // where it is not the configuration's
	// fault reads the code and the message of an error.
	fault func(header http.Header, body []byte) (code, message string)
	skew  *atomic.Int64 // nanoseconds that AWS's clock is ahead of ours
}

// JSON is a service with the protocol AWS JSON 1.1; its constructors are [CloudTrail],
// [EventBridge] and [AWSConfig]. It is safe for concurrent use.
type JSON struct {
	service
	target string
}

// CloudTrail returns a client for CloudTrail made from cfg.
func CloudTrail(cfg aws.Config) *JSON {
	return newJSON(cfg, "CloudTrail", "cloudtrail", "CloudTrail_20131101.")
}

// EventBridge returns a client for EventBridge made from cfg.
func EventBridge(cfg aws.Config) *JSON {
	return newJSON(cfg, "EventBridge", "events", "AWSEvents.")
}

// AWSConfig returns a client for AWS Config made from cfg.
func AWSConfig(cfg aws.Config) *JSON {
	return newJSON(cfg, "Config Service", "config", "StarlingDoveService.")
}

func newJSON(cfg aws.Config, id, name, target string) *JSON {
	s := newService(cfg, id, name, func(header http.Header, body []byte) (code, message string) {
		code, message, _ = restjson.GetErrorInfo(json.NewDecoder(bytes.NewReader(body))) // a proxy's page has none
		return cmp.Or(restjson.SanitizeErrorCode(header.Get("X-Amzn-ErrorType")), code), message
	})
	s.endpoint = s.resolve(name, "sqs", func(region *string, fips, dualStack *bool) (smithyendpoints.Endpoint, error) {
		if name == "config" && strings.HasPrefix(*region, "us-gov-") && !*dualStack {
			fips = aws.Bool(false) // its endpoint there has the same name with FIPS and without
		}
		return sqs.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), sqs.EndpointParameters{Region: region, UseFIPS: fips, UseDualStack: dualStack})
	})
	return &JSON{s, target}
}

// Call calls an operation. It encodes in as JSON and decodes the answer into out, unless
// that is nil. Failed calls are tried again as cfg says, by default as the SDK's standard
// mode does. An error of the service is a [smithy.APIError]; any other error may
// leave open whether the operation took place.
func (j *JSON) Call(ctx context.Context, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s: %w", operation, err)
	}
	answer, err := j.send(ctx, operation, http.MethodPost, "/", body, map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": j.target + operation,
	})
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode the answer to %s: %w", operation, err)
	}
	return nil
}

// BatchOperations is the API of S3 Batch Operations, at S3's control endpoint; its
// constructor is [S3Control]. It is safe for concurrent use.
type BatchOperations struct {
	service
	account string
}

// S3Control returns a client for the S3 Batch Operations of an account made from cfg.
// On a custom endpoint it does not put the account before the host, as the SDK does: few
// local servers answer to such names, and an address such as 127.0.0.1 has none.
func S3Control(cfg aws.Config, account string) *BatchOperations {
	s := newService(cfg, "S3 Control", "s3", faultInXML)
	s.endpoint = s.resolve(account+".s3-control", "s3", func(region *string, fips, dualStack *bool) (smithyendpoints.Endpoint, error) {
		return s3.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), s3.EndpointParameters{Region: region, UseFIPS: fips, UseDualStack: dualStack})
	})
	return &BatchOperations{s, account}
}

// faultInXML reads an error of the protocols REST XML and query.
func faultInXML(_ http.Header, body []byte) (code, message string) {
	var e struct {
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
	}
	_ = xml.Unmarshal(body, &e) // a proxy's page has none
	return e.Code, e.Message
}

// Call sends a request to a path, which may have a query. It encodes in as XML, unless
// that is nil, and decodes the answer into out, unless that is nil. Retries and errors
// are those of [JSON.Call].
func (b *BatchOperations) Call(ctx context.Context, method, path string, in, out any) error {
	operation := method + " " + path
	header := map[string]string{"X-Amz-Account-Id": b.account}
	var body []byte
	if in != nil {
		var err error
		if body, err = xml.Marshal(in); err != nil {
			return fmt.Errorf("encode %s: %w", operation, err)
		}
		header["Content-Type"] = "application/xml"
	}
	answer, err := b.send(ctx, operation, method, path, body, header)
	if err != nil || out == nil {
		return err
	}
	if err := xml.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode the answer to %s: %w", operation, err)
	}
	return nil
}

// EC2 is the query API of Amazon EC2. It is safe for concurrent use.
type EC2 struct{ service }

// NewEC2 returns a client for EC2 made from cfg.
func NewEC2(cfg aws.Config) *EC2 {
	s := newService(cfg, "EC2", "ec2", func(_ http.Header, body []byte) (code, message string) {
		var e struct {
			Code    string `xml:"Errors>Error>Code"`
			Message string `xml:"Errors>Error>Message"`
		}
		_ = xml.Unmarshal(body, &e) // a proxy's page has none
		return e.Code, e.Message
	})
	s.endpoint = s.resolve("ec2", "sqs", func(region *string, fips, dualStack *bool) (smithyendpoints.Endpoint, error) {
		return sqs.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), sqs.EndpointParameters{Region: region, UseFIPS: fips, UseDualStack: dualStack})
	})
	return &EC2{s}
}

// EncryptedByDefault reports whether new EBS volumes of the account and Region are encrypted
// where their creators ask for nothing (GetEbsEncryptionByDefault). Retries and errors are
// those of [JSON.Call].
func (e *EC2) EncryptedByDefault(ctx context.Context) (bool, error) {
	const operation = "GetEbsEncryptionByDefault"
	answer, err := e.query(ctx, operation, "2016-11-15", nil)
	if err != nil {
		return false, err
	}
	var out struct {
		Default *bool `xml:"ebsEncryptionByDefault"`
	}
	if err := xml.Unmarshal(answer, &out); err != nil {
		return false, fmt.Errorf("decode the answer to %s: %w", operation, err)
	}
	if out.Default == nil {
		return false, fmt.Errorf("decode the answer to %s: it does not say", operation)
	}
	return *out.Default, nil
}

// IAM is the query API of IAM, which has one endpoint in each partition. It is safe for
// concurrent use.
type IAM struct{ service }

// NewIAM returns a client for IAM made from cfg, whose Region tells the partition.
func NewIAM(cfg aws.Config) *IAM {
	s := newService(cfg, "IAM", "iam", faultInXML)
	home := iamHomes[slices.IndexFunc(iamHomes, func(h iamHome) bool {
		return strings.HasPrefix(cfg.Region, h.prefix)
	})]
	s.signingRegion = home.region
	s.endpoint = s.resolve("iam", "sqs", func(_ *string, fips, dualStack *bool) (smithyendpoints.Endpoint, error) {
		if home.prefix == "us-gov-" {
			fips = aws.Bool(false) // all of its endpoints there are FIPS ones
		}
		label := home.label
		if *dualStack {
			label = home.dualLabel
		}
		e, err := sqs.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), sqs.EndpointParameters{Region: &home.region, UseFIPS: fips, UseDualStack: dualStack})
		e.URI.Host = strings.Replace(e.URI.Host, "."+home.region, label, 1)
		return e, err
	})
	return &IAM{s}
}

// iamHome is IAM in the partition whose Regions begin so: the Region that signs, and what
// stands in its place in the names of the endpoints, as the rules of the SDK's package have it.
type iamHome struct{ prefix, region, label, dualLabel string }

var iamHomes = []iamHome{
	{"cn-", "cn-north-1", ".cn-north-1", ".global"},
	{"us-gov-", "us-gov-west-1", ".us-gov", ".us-gov"},
	{"us-iso-", "us-iso-east-1", ".us-iso-east-1", ""},
	{"us-isob-", "us-isob-east-1", ".us-isob-east-1", ""},
	{"eu-isoe-", "eu-isoe-west-1", ".eu-isoe-west-1", ""},
	{"us-isof-", "us-isof-south-1", ".us-isof-south-1", ""},
	{"eusc-", "eusc-de-east-1", ".eusc-de-east-1", ""},
	{"", "us-east-1", "", ".global"},
}

// Call calls an action with its parameters, nil for none, and decodes the answer's result
// into result by the names in XML. Retries and errors are those of [JSON.Call].
func (i *IAM) Call(ctx context.Context, action string, parameters url.Values, result any) error {
	answer, err := i.query(ctx, action, "2010-05-08", parameters)
	if err != nil {
		return err
	}
	d := xml.NewDecoder(bytes.NewReader(answer))
	for {
		token, err := d.Token()
		if err != nil {
			return fmt.Errorf("decode the answer to %s: it has no result: %w", action, err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == action+"Result" {
			if err := d.DecodeElement(result, &start); err != nil {
				return fmt.Errorf("decode the answer to %s: %w", action, err)
			}
			return nil
		}
	}
}

// query calls an action of the query protocol and returns the answer.
func (s service) query(ctx context.Context, action, version string, parameters url.Values) ([]byte, error) {
	form := url.Values{"Action": {action}, "Version": {version}}
	maps.Copy(form, parameters)
	return s.send(ctx, action, http.MethodPost, "/", []byte(form.Encode()),
		map[string]string{"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"})
}

func newService(cfg aws.Config, id, signingName string, fault func(http.Header, []byte) (code, message string)) service {
	return service{id: id, signingName: signingName, config: cfg, options: sync.OnceValue(func() sqs.Options { return sqs.NewFromConfig(cfg).Options() }), fault: fault, skew: new(atomic.Int64)}
}

// resolve returns the endpoint: the custom one, else that of a service whose SDK package
// is there, under another name. The names of partitions, of FIPS and of dual-stack
// endpoints are then the SDK's.
func (s service) resolve(name, sibling string, ask func(region *string, fips, dualStack *bool) (smithyendpoints.Endpoint, error)) func() (*url.URL, error) {
	return sync.OnceValues(func() (*url.URL, error) {
		if custom := customEndpoint(s.config, s.id); custom != nil {
			return url.Parse(*custom)
		}
		o := s.options()
		e, err := ask(&o.Region, aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled), aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled))
		if err != nil {
			return nil, err
		}
		e.URI.Host = name + strings.TrimPrefix(e.URI.Host, sibling) // which -fips may follow
		return &e.URI, nil
	})
}

// customEndpoint returns the endpoint that AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_<SERVICE>
// or the shared configuration gives a service, as each SDK package finds it; else nil.
func customEndpoint(cfg aws.Config, id string) *string {
	_, all := os.LookupEnv("AWS_ENDPOINT_URL")
	_, own := os.LookupEnv("AWS_ENDPOINT_URL_" + strings.ToUpper(strings.ReplaceAll(id, " ", "_")))
	if all && !own {
		return cfg.BaseEndpoint
	}
	for _, source := range cfg.ConfigSources {
		s, ok := source.(interface {
			GetIgnoreConfiguredEndpoints(context.Context) (bool, bool, error)
		})
		if !ok {
			continue
		}
		if ignore, found, err := s.GetIgnoreConfiguredEndpoints(context.Background()); err == nil && found && ignore {
			return cfg.BaseEndpoint
		}
	}
	for _, source := range cfg.ConfigSources {
		s, ok := source.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		})
		if !ok {
			continue
		}
		if endpoint, found, err := s.GetServiceBaseEndpoint(context.Background(), id); err == nil && found {
			return &endpoint
		}
	}
	return cfg.BaseEndpoint
}

// send sends a request and returns the body of the answer.
func (s service) send(ctx context.Context, operation, method, path string, body []byte, header map[string]string) ([]byte, error) {
	stack := middleware.NewStack(operation, smithyhttp.NewStackRequest)
	build := middleware.SerializeMiddlewareFunc("Request", func(ctx context.Context, in middleware.SerializeInput, next middleware.SerializeHandler) (out middleware.SerializeOutput, md middleware.Metadata, err error) {
		endpoint, err := s.endpoint()
		if err != nil {
			return out, md, fmt.Errorf("find the endpoint: %w", err)
		}
		target, err := endpoint.Parse(strings.TrimSuffix(endpoint.Path, "/") + path)
		if err != nil {
			return out, md, err
		}
		r := in.Request.(*smithyhttp.Request)
		r.Method, r.URL, r.Host = method, target, target.Host
		for name, value := range header {
			r.Header.Set(name, value)
		}
		if in.Request, err = r.SetStream(bytes.NewReader(body)); err != nil {
			return out, md, err
		}
		return next.HandleSerialize(ctx, in)
	})
	if err := errors.Join(
		stack.Serialize.Add(build, middleware.After),
		awsmiddleware.AddClientRequestIDMiddleware(stack),
		awsmiddleware.AddRequestUserAgentMiddleware(stack),
		stack.Finalize.Add(&v4.ComputePayloadSHA256{}, middleware.After),
		v4.AddContentSHA256HeaderMiddleware(stack),
		stack.Finalize.Add(retry.NewAttemptMiddleware(s.options().Retryer, smithyhttp.RequestCloner, func(a *retry.Attempt) { a.ClientSkew = s.skew }), middleware.After),
		stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("Sign", s.sign), middleware.After),
		stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("Answer", s.answer), middleware.After),
		awsmiddleware.AddRecordResponseTiming(stack),
	); err != nil {
		return nil, err
	}
	for _, add := range s.config.APIOptions {
		if err := add(stack); err != nil {
			return nil, err
		}
	}
	ctx = awsmiddleware.SetServiceID(awsmiddleware.SetOperationName(ctx, operation), s.id)
	handler := middleware.DecorateHandler(smithyhttp.NewClientHandlerWithOptions(s.options().HTTPClient), stack)
	answer, _, err := handler.Handle(ctx, nil)
	if err != nil {
		return nil, &smithy.OperationError{ServiceID: s.id, OperationName: operation, Err: err}
	}
	return answer.([]byte), nil
}

// sign signs one attempt by AWS's clock.
func (s service) sign(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (out middleware.FinalizeOutput, md middleware.Metadata, err error) {
	credentials, err := s.options().Credentials.Retrieve(ctx)
	if err != nil {
		return out, md, fmt.Errorf("retrieve credentials: %w", err)
	}
	r := in.Request.(*smithyhttp.Request)
	now := time.Now().Add(time.Duration(s.skew.Load()))
	if err := v4.NewSigner().SignHTTP(ctx, credentials, r.Request, v4.GetPayloadHash(ctx), s.signingName, cmp.Or(s.signingRegion, s.options().Region), now); err != nil {
		return out, md, fmt.Errorf("sign the request: %w", err)
	}
	out, md, err = next.HandleFinalize(ctx, in)
	if skew, ok := awsmiddleware.GetAttemptSkew(md); ok {
		s.skew.Store(int64(skew))
	}
	return out, md, err
}

// answer reads the body of an answer, or the error in it.
func (s service) answer(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (out middleware.DeserializeOutput, md middleware.Metadata, err error) {
	out, md, err = next.HandleDeserialize(ctx, in)
	if err != nil {
		return out, md, err
	}
	r := out.RawResponse.(*smithyhttp.Response)
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return out, md, fmt.Errorf("read the answer: %w", err)
	}
	if r.StatusCode/100 != 2 {
		code, message := s.fault(r.Header, body)
		return out, md, &awshttp.ResponseError{
			ResponseError: &smithyhttp.ResponseError{Response: r, Err: &smithy.GenericAPIError{Code: cmp.Or(code, "UnknownError"), Message: cmp.Or(message, http.StatusText(r.StatusCode))}},
			RequestID:     cmp.Or(r.Header.Get("X-Amzn-Requestid"), r.Header.Get("X-Amz-Request-Id")),
		}
	}
	out.Result = body
	return out, md, nil
}
