package handlers_test

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// canaryKey creates the canary key with a description, and has the fleet know it.
func (w *world) canaryKey(description string) string {
	w.t.Helper()
	key := w.newKey(kms.CreateKeyInput{Description: &description, Tags: []types.Tag{{TagKey: aws.String("cmkeeper:canary"), TagValue: aws.String("true")}}})
	c := w.router.Config
	c.CanaryKey = key
	w.router = w.newRouter(c)
	w.react()
	w.told.take()
	return key
}
