package access_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/access"
)

// largeAccount is an account with so many principals, a tenth of which may change IAM, and
// the policies that such accounts have: AWS's own, the company's by service, and inline ones.
func largeAccount(principals int) access.Account {
	r := rand.New(rand.NewPCG(1, 2))
	a := access.Account{ID: account, Groups: map[string]access.Group{}, Policies: map[string]string{
		"arn:aws:iam::aws:policy/AdministratorAccess": `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`,
		"arn:aws:iam::aws:policy/ReadOnlyAccess":      `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["kms:Describe*","kms:List*","kms:Get*","s3:Get*","s3:List*"],"Resource":"*"}}`,
		"arn:aws:iam::aws:policy/IAMFullAccess":       `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iam:*","Resource":"*"}}`,
	}}
	conditions := []string{"", "", `,"Condition":{"StringEquals":{"kms:ViaService":"s3.eu-central-1.amazonaws.com"}}`, `,"Condition":{"Bool":{"aws:MultiFactorAuthPresent":"true"}}`, `,"Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}`, `,"Condition":{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","192.0.2.0/24"]}}`}
	policy := func() string {
		var statements []string
		for range 1 + r.IntN(5) {
			statements = append(statements, fmt.Sprintf(`{"Effect":"Allow","Action":["kms:%s","s3:GetObject","sqs:*"],"Resource":"arn:aws:kms:*:111122223333:key/%s"%s}`,
				[]string{"Decrypt", "Encrypt", "GenerateDataKey*", "*", "Describe*"}[r.IntN(5)], []string{"*", "1234abcd-12ab-34cd-56ef-1234567890ab", "other"}[r.IntN(3)], conditions[r.IntN(len(conditions))]))
		}
		return statement(strings.Join(statements, ","))
	}
	var attachable []string
	for i := range 300 {
		name := fmt.Sprintf("%spolicy/service-%d", iamARN, i)
		a.Policies[name] = policy()
		attachable = append(attachable, name)
	}
	for i := range 50 {
		name := fmt.Sprintf("group-%d", i)
		a.Groups[name] = access.Group{ARN: iamARN + "group/" + name, Name: name, Attached: attachable[i*3 : i*3+3]}
	}
	for i := range principals {
		p := role(fmt.Sprintf("p-%d", i), policy())
		if i%3 == 0 {
			p = user(fmt.Sprintf("p-%d", i), policy())
			p.Groups = []string{fmt.Sprintf("group-%d", r.IntN(50)), fmt.Sprintf("group-%d", r.IntN(50))}
		}
		for range r.IntN(4) {
			p.Attached = append(p.Attached, attachable[r.IntN(len(attachable))])
		}
		switch {
		case i%100 == 0:
			p.Attached = append(p.Attached, "arn:aws:iam::aws:policy/AdministratorAccess")
		case i%10 == 0:
			p.Attached = append(p.Attached, "arn:aws:iam::aws:policy/IAMFullAccess")
		case i%5 == 0:
			p.Boundary = "arn:aws:iam::aws:policy/ReadOnlyAccess"
		}
		if i%2 == 0 {
			p.Trust = statement(`{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"sts:AssumeRole"}`)
		}
		if p.Role {
			a.Roles = append(a.Roles, p)
		} else {
			a.Users = append(a.Users, p)
		}
	}
	return a
}

// BenchmarkReport answers for a key in an account with 5,000 principals, its parsing included.
func BenchmarkReport(b *testing.B) {
	a := largeAccount(5000)
	for b.Loop() {
		report, err := access.New(a, access.Context{Now: now}).Report(keyWith(delegates), nil)
		if err != nil || len(report.Holders) < 1000 || len(report.Findings) < 100 {
			b.Fatal(len(report.Holders), len(report.Findings), err)
		}
		b.ReportMetric(float64(len(report.Holders)), "holders")
		b.ReportMetric(float64(len(report.Findings)), "findings")
	}
}

// BenchmarkNextKey judges a further key of the same account, as a review of all keys does.
func BenchmarkNextKey(b *testing.B) {
	r := access.New(largeAccount(5000), access.Context{Now: now})
	k := keyWith(delegates)
	if _, err := r.Report(k, nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h, err := r.Holders(k)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.Findings(k, h); err != nil {
			b.Fatal(err)
		}
	}
}
