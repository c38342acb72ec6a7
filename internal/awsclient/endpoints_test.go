package awsclient

import (
	"context"
	"reflect"
	"strconv"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyauth "github.com/aws/smithy-go/auth"
	smithyendpoints "github.com/aws/smithy-go/endpoints"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// counted counts what is asked of the SDK's own resolver.
type counted struct {
	s3.EndpointResolverV2
	asked int
}

func (c *counted) ResolveEndpoint(ctx context.Context, p s3.EndpointParameters) (smithyendpoints.Endpoint, error) {
	c.asked++
	return c.EndpointResolverV2.ResolveEndpoint(ctx, p)
}

// TestEndpointsAreThoseOfTheSDK: each parameter that counts has an endpoint of its
// own, and those that are left out change none.
func TestEndpointsAreThoseOfTheSDK(t *testing.T) {
	base := s3.EndpointParameters{Bucket: aws.String("b"), Region: aws.String("eu-west-1")}
	cases := []s3.EndpointParameters{base, {Region: base.Region}}
	for i := range reflect.TypeFor[s3.EndpointParameters]().NumField() {
		for _, value := range []any{aws.Bool(true), aws.Bool(false), aws.String("x"), aws.String("https://127.0.0.1:4566")} {
			p := base
			if field := reflect.ValueOf(&p).Elem().Field(i); field.Type() == reflect.TypeOf(value) {
				field.Set(reflect.ValueOf(value))
				cases = append(cases, p)
			}
		}
	}
	sdk := s3.NewDefaultEndpointResolverV2()
	r := &rememberedEndpoints{next: sdk, known: map[endpointParameters]smithyendpoints.Endpoint{}}
	for range 2 {
		for _, p := range cases {
			want, wantErr := sdk.ResolveEndpoint(t.Context(), p)
			got, err := r.ResolveEndpoint(t.Context(), p)
			if !reflect.DeepEqual(want, got) || (err == nil) != (wantErr == nil) {
				t.Errorf("%+v: %+v, %v; the SDK says %+v, %v", p, got, err, want, wantErr)
			}
			if options, ok := smithyauth.GetAuthOptions(&got.Properties); ok { // as the SDK does
				options[0].SignerProperties.Set("x", "y")
				options[0].SchemeID = "z"
			}
		}
	}
}

func TestEndpointsAreRemembered(t *testing.T) {
	next := &counted{EndpointResolverV2: s3.NewDefaultEndpointResolverV2()}
	r := &rememberedEndpoints{next: next, known: map[endpointParameters]smithyendpoints.Endpoint{}}
	for i := range 10 {
		p := s3.EndpointParameters{Bucket: aws.String("b" + strconv.Itoa(i%2)), Region: aws.String("eu-west-1"), Key: aws.String(strconv.Itoa(i))}
		if _, err := r.ResolveEndpoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if next.asked != 2 {
		t.Errorf("the SDK was asked %d times about two buckets", next.asked)
	}
}

// TestEndpointsOfManyAtOnce is for the race detector.
func TestEndpointsOfManyAtOnce(t *testing.T) {
	server := localaws.New(localaws.Options{})
	defer server.Close()
	client := S3(inprocess.Config(server, "us-east-1", "test"), nil)
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("b-1")}); err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			for range 5 {
				if _, err := client.HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: aws.String("b-1")}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
}
