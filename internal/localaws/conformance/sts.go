package conformance

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// runSTS states what STS does.
func runSTS(t *testing.T, target Target) {
	out, err := sts.NewFromConfig(target.Config).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(out.Account) != target.Account || !strings.HasPrefix(aws.ToString(out.Arn), "arn:aws") || aws.ToString(out.UserId) == "" {
		t.Errorf("identity = %+v, want one of account %s", out, target.Account)
	}
}
