// Package arn takes Amazon Resource Names apart:
// arn:partition:service:region:account:resource.
package arn

import "strings"

// ARN is the parts of a name. The zero value is no name.
type ARN struct {
	// Partition is aws, aws-cn, aws-us-gov and so on.
	Partition string
	// Service is the namespace, such as kms or iam.
	Service string
	// Region and Account are "" for what has none, such as the Region of a role.
	Region, Account string
	// Resource is all that follows, colons included: "key/ID", "role/PATH/NAME", or
	// a queue's name.
	Resource string
}

// Parse returns the parts of s, and the zero value where s is no ARN. It checks that
// all parts are there, not what they say.
func Parse(s string) ARN {
	rest, ok := strings.CutPrefix(s, "arn:")
	if !ok {
		return ARN{}
	}
	var a ARN
	for _, part := range [...]*string{&a.Partition, &a.Service, &a.Region, &a.Account} {
		if *part, rest, ok = strings.Cut(rest, ":"); !ok {
			return ARN{}
		}
	}
	a.Resource = rest
	return a
}

// String puts the parts together again.
func (a ARN) String() string {
	return "arn:" + a.Partition + ":" + a.Service + ":" + a.Region + ":" + a.Account + ":" + a.Resource
}

// Name returns what follows the last slash of the resource: a key's id, a role's name
// without its path, a role session's name; the whole resource where there is no slash.
func (a ARN) Name() string { return a.Resource[strings.LastIndexByte(a.Resource, '/')+1:] }

// Account returns the account of twelve digits in an ARN, that of a principal for
// example; "" where s is no ARN or has none.
func Account(s string) string {
	account := Parse(s).Account
	if len(account) != 12 || strings.Trim(account, "0123456789") != "" {
		return ""
	}
	return account
}

// KeyID returns the id in a KMS key's ARN; "" for anything else, an alias's ARN
// included.
func KeyID(s string) string {
	a := Parse(s)
	id, ok := strings.CutPrefix(a.Resource, "key/")
	if !ok || a.Service != "kms" {
		return ""
	}
	return id
}
