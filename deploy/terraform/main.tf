# The stack of ../cloudformation/cmkeeper.yaml, and nothing else: what is deployed is said
# there, once. variables.tf, parameters.tf and outputs.tf are made from it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "name" {
  description = "Name of the stack, and the beginning of the names of what it makes."
  type        = string
  default     = "cmkeeper"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,39}$", var.name))
    error_message = "name must be lower-case letters, digits and hyphens, at most 40."
  }
}

variable "template_bucket" {
  description = "A bucket in the stack's Region that the template is put into: it is larger than what CloudFormation takes in a call."
  type        = string
}

variable "tags" {
  description = "Tags of the stack and of what it makes."
  type        = map(string)
  default     = {}
}

locals {
  template = "${path.module}/../cloudformation/cmkeeper.yaml"
}

data "aws_s3_bucket" "template" {
  bucket = var.template_bucket
}

resource "aws_s3_object" "template" {
  bucket = data.aws_s3_bucket.template.id
  key    = "${var.name}/${filesha256(local.template)}.yaml"
  source = local.template
}

resource "aws_cloudformation_stack" "this" {
  name         = var.name
  template_url = "https://${data.aws_s3_bucket.template.bucket_regional_domain_name}/${aws_s3_object.template.key}"
  capabilities = ["CAPABILITY_IAM"]
  parameters   = local.parameters
  tags         = var.tags
}
