window.ui = SwaggerUIBundle({ url: "api-docs/openapi.json", dom_id: "#swagger-ui", validatorUrl: null });
